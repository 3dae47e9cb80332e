"""Planes of pixels laid on the grid of another image: each voxel centre takes the nearest pixel of the nearest plane.

Ties go to the pixel, and to the plane, further along. A voxel further than half a step from every plane, or outside the pixels' outer
edges, is background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.dicom.geometry import LPS_TO_RAS
from pipeline.scans.quarantine import Code, Refused

TIE = 1e-4  # of a pixel: rounding errors of positions must not decide
REGULAR = 0.1  # of a step: how far planes may be off their places


@dataclass(frozen=True, eq=False)
class Planes:
    """Planes with one orientation: ``row``, ``column``, ``normal`` unit vectors and ``origins`` (K, 3) in LPS mm, ``spacing`` (between
    rows, between columns), ``step`` between planes; ``pixels`` (K, rows, columns) bool."""

    row: np.ndarray
    column: np.ndarray
    normal: np.ndarray
    origins: np.ndarray
    spacing: tuple[float, float]
    step: float
    pixels: np.ndarray


def lay(planes: Planes, grid: Grid, out: np.ndarray) -> None:
    """Sets ``out`` (grid.shape, bool) where a voxel's centre lies in a pixel that is set. Raises ``Refused`` if pixels that are set lie
    outside of the grid."""
    kept = planes.pixels.any(axis=(1, 2))
    if not kept.any():
        return
    numbers, lookup = _numbers(planes, kept)
    low, high = _box(planes, kept, grid)
    origin = planes.origins[int(np.flatnonzero(kept)[0])] @ planes.normal
    axes_ras = [LPS_TO_RAS[:3, :3] @ axis for axis in (planes.normal, planes.column, planes.row)]
    starts = np.stack([planes.origins @ planes.column, planes.origins @ planes.row])
    rows, columns = planes.pixels.shape[1:]
    j, k = np.meshgrid(np.arange(low[1], high[1]), np.arange(low[2], high[2]), indexing="ij")
    for i in range(low[0], high[0]):
        world = grid.world(np.stack([np.full_like(j, i), j, k], axis=-1))
        height, down, across = (world @ axis for axis in axes_ras)
        number = np.floor((height - origin) / planes.step + 0.5 + TIE).astype(np.int64) - numbers
        plane = np.where((number >= 0) & (number < len(lookup)), lookup[np.clip(number, 0, len(lookup) - 1)], -1)
        r = np.floor((down - starts[0][plane]) / planes.spacing[0] + 0.5 + TIE).astype(np.int64)
        c = np.floor((across - starts[1][plane]) / planes.spacing[1] + 0.5 + TIE).astype(np.int64)
        inside = (plane >= 0) & (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
        hit = np.zeros(inside.shape, bool)
        hit[inside] = planes.pixels[plane[inside], r[inside], c[inside]]
        out[i, low[1] : high[1], low[2] : high[2]] |= hit


def regular_step(heights: np.ndarray, said: float) -> float:
    """Step in mm between planes of these heights, some of which may be missing; ``said`` is about what it is, or 0 where nothing says it.
    Raises ``Refused`` where the planes lie at no multiples of one step."""
    heights = np.unique(np.round(heights, 4))
    if len(heights) < 2:
        if said <= 0:
            raise Refused(Code.PIXEL_SPACING)
        return said
    steps = np.diff(heights)
    base = said or float(steps.min())
    multiples = np.round(steps / base)
    if multiples.min() < 1 or np.abs(steps / base - multiples).max() > REGULAR:
        raise Refused(Code.VARIABLE_SPACING)
    numbers = np.r_[0, np.cumsum(multiples)]
    step, start = np.polyfit(numbers, heights, 1)
    if np.abs(numbers * step + start - heights).max() > REGULAR * step:
        raise Refused(Code.VARIABLE_SPACING)
    return float(step)


def _numbers(planes: Planes, kept: np.ndarray) -> tuple[int, np.ndarray]:
    """(number of the lowest plane in steps from the first that is kept, number from there on -> its place in the array, or -1)."""
    origins = planes.origins[kept]
    numbers = np.round((origins - origins[0]) @ planes.normal / planes.step).astype(np.int64)
    lookup = np.full(int(np.ptp(numbers)) + 1, -1, np.int64)
    lookup[numbers - numbers.min()] = np.flatnonzero(kept)
    return int(numbers.min()), lookup


def _box(planes: Planes, kept: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Index box of the grid that holds every pixel that is set; raises ``Refused`` where it does not fit into the grid."""
    corners = []
    for number in np.flatnonzero(kept):
        rows, columns = (np.flatnonzero(planes.pixels[number].any(axis=axis)) for axis in (1, 0))
        for r in (rows[0] - 0.5, rows[-1] + 0.5):
            for c in (columns[0] - 0.5, columns[-1] + 0.5):
                place = planes.origins[number] + planes.column * r * planes.spacing[0] + planes.row * c * planes.spacing[1]
                corners += [place - planes.normal * planes.step / 2, place + planes.normal * planes.step / 2]
    found = grid.index(np.asarray(corners) @ LPS_TO_RAS[:3, :3].T)
    _check_inside(planes, kept, grid)
    low, high = np.floor(found.min(axis=0)), np.ceil(found.max(axis=0)) + 1
    return np.maximum(0, low).astype(int), np.minimum(grid.shape, high).astype(int)


def _check_inside(planes: Planes, kept: np.ndarray, grid: Grid) -> None:
    """Centres of pixels that are set must lie within the grid's outer faces, by half a pixel or half a voxel, whichever is more."""
    own = np.array([planes.step, *planes.spacing])
    for number in np.flatnonzero(kept):
        r, c = np.nonzero(planes.pixels[number])
        edge = _outline(r, c)
        r, c = r[edge, None], c[edge, None]
        places = planes.origins[number] + planes.column * r * planes.spacing[0] + planes.row * c * planes.spacing[1]
        index = grid.index(places @ LPS_TO_RAS[:3, :3].T)
        directions = np.abs(grid.directions.T @ LPS_TO_RAS[:3, :3] @ np.stack([planes.normal, planes.column, planes.row], axis=1))
        slack = 0.5 + np.maximum(0.0, (directions @ own / 2) / np.asarray(grid.spacing_mm) - 0.5) + 1e-3
        if (index < -slack).any() or (index > np.asarray(grid.shape) - 1 + slack).any():
            raise Refused(Code.LABELS_OUTSIDE)


def _outline(r: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Indices of the first and the last pixel that is set in each row: all others lie between two of them."""
    first = np.flatnonzero(np.r_[True, np.diff(r) > 0])
    return np.unique(np.r_[first, first[1:] - 1, len(r) - 1])
