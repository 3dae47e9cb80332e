"""Planes in space as one regular stack: ordered along their normal, checked for gaps, repeats and shifts. DICOM's LPS millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.scans.quarantine import Code, Refused

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MIN_SLICES = 4
MAX_JITTER_MM = 0.1
MAX_DRIFT_MM = 0.1
MAX_TURN = 2e-4  # between direction cosines of one stack: a twentieth of a millimetre at 250 mm from the axis
MAX_TILT = 1.0  # tangent of the gantry's tilt


@dataclass(frozen=True)
class Plane:
    """Where one slice lies; ``orientation`` is (6,): row and column direction; ``spacing`` is (between rows, between columns)."""

    position: np.ndarray
    orientation: np.ndarray
    spacing: tuple[float, float]


@dataclass(frozen=True)
class Stack:
    """``order`` of the planes; ``affine`` (4, 4) of (column, row, slice) indices without tilt, right in the middle of the stack;
    ``tilt_mm``: how far each next slice is shifted along its rows and along its columns by a tilted gantry."""

    order: list[int]
    affine: np.ndarray
    tilt_mm: tuple[float, float]


def stack_of(planes: Sequence[Plane]) -> Stack:
    """The regular stack that planes are; raises ``Refused`` where they are none."""
    if len(planes) < MIN_SLICES:
        raise Refused(Code.TOO_FEW_SLICES)
    if any(np.abs(plane.orientation - planes[0].orientation).max() > MAX_TURN for plane in planes):
        raise Refused(Code.MIXED_SHAPE)
    if any(not np.allclose(plane.spacing, planes[0].spacing, rtol=1e-4) for plane in planes):
        raise Refused(Code.MIXED_SHAPE)
    row, column, normal = axes(planes[0].orientation)
    positions = np.stack([plane.position for plane in planes])
    height = positions @ normal
    order = np.argsort(height, kind="stable")
    positions, height = positions[order], height[order]
    step = _step(height)
    middle = (len(planes) - 1) / 2
    tilt = tuple(_tilt(positions @ axis, height, step, middle) for axis in (row, column))
    affine = np.eye(4)
    affine[:3, 0] = row * planes[0].spacing[1]
    affine[:3, 1] = column * planes[0].spacing[0]
    affine[:3, 2] = normal * step
    affine[:3, 3] = positions.mean(0) - normal * step * middle  # least squares: the fitted line goes through the mean
    return Stack([int(place) for place in order], affine, tilt)


def axes(orientation: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along rows, along columns and along the normal, at exact right angles."""
    row = orientation[:3] / np.linalg.norm(orientation[:3])
    column = orientation[3:] - row * (orientation[3:] @ row)
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def _step(height: np.ndarray) -> float:
    """Distance between slices by least squares; refused where slices coincide, one is missing or the distance varies."""
    steps = np.diff(height)
    if steps.min() < 1e-3:
        raise Refused(Code.DUPLICATE_POSITION)
    step, residual = _line(height)
    median = float(np.median(steps))
    if np.abs(residual).max() <= min(max(0.05, min(MAX_JITTER_MM, 0.1 * median)), 0.2 * median):
        return step
    multiples = steps / steps.min()
    gap = multiples.max() > 1.5 and np.abs(multiples - np.round(multiples)).max() < 0.1
    if gap and (multiples.round() > 1).sum() <= max(1, len(steps) // 4) and abs(median - steps.min()) < 0.1 * median:
        raise Refused(Code.MISSING_SLICE)
    raise Refused(Code.VARIABLE_SPACING)


def _tilt(along: np.ndarray, height: np.ndarray, step: float, middle: float) -> float:
    """Shift in mm of each next slice along one axis of the plane; 0 where it stays below a tenth of a millimetre in all."""
    slope, residual = _line(along)
    if np.abs(residual).max() > MAX_DRIFT_MM:
        raise Refused(Code.SHIFTED_SLICES)
    if abs(slope) * middle <= MAX_DRIFT_MM:
        return 0.0
    if abs(slope) > MAX_TILT * step:
        raise Refused(Code.GANTRY_TILT)
    return slope


def _line(values: np.ndarray) -> tuple[float, np.ndarray]:
    """(slope, residuals) of the line through values at 0, 1, 2, ..."""
    number = np.arange(len(values)) - (len(values) - 1) / 2
    slope = float(number @ values / (number @ number))
    return slope, values - values.mean() - slope * number
