"""From a checked volume to what the store holds: body, crop, grid, int16, labels, fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from anatomy.body import Body, find_body
from anatomy.grid import Grid
from pipeline.volumes.fingerprint import Fingerprint, fingerprint
from pipeline.volumes.intensity import Contract, foreground, to_stored
from pipeline.volumes.resample import nearest, resample, resample_labels, target_grid
from pipeline.volumes.survey import survey
from pipeline.volumes.volume import Volume

MIN_VOXELS = 8001
MIN_SLICES = 4
MIN_VALUES = 16  # fewer distinct ones are a mask or a label map
MAX_EQUAL = 0.995
MARGIN_VOX = 2


class LowInformationError(ValueError):
    """A volume in which there is nothing to learn; ``channel`` is the number of the one that has nothing, if the others may have."""

    channel: int | None = None


@dataclass(frozen=True)
class LostLabels:
    """Labels of a task that cannot be used; ``code`` is one of the reason codes, ``told`` says more than its sentence does;
    ``paths`` of the files at fault, if those are not all."""

    task: str
    code: str
    told: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """Arguments of ``Store.write``; and the labels that are not among them, with the reason."""

    voxels: np.ndarray
    body: np.ndarray
    meta: dict[str, Any]
    labels: dict[str, np.ndarray]
    fingerprint: Fingerprint
    lost: tuple[LostLabels, ...] = ()


def guess_modality(voxels: np.ndarray) -> str:
    """Of files that don't say it: values far below 0 are Hounsfield units of air."""
    return "CT" if float(voxels.min()) < -500 else "MR"


def prepare(
    volume: Volume,
    modalities: tuple[str, ...],
    labels: Mapping[str, Volume],
    spacing_mm: tuple[float, float, float] | Literal["native"],
    crop_body: bool = True,
    window_hu: tuple[float, float] = (-1000.0, 1000.0),
    percentiles: tuple[float, float] = (0.5, 99.5),
    keep_thick: bool = True,
    values: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> Prepared:
    """``modalities`` names one a channel; the body is that of the first channel. Labels are volumes of one channel by task, as are the
    ``values`` that they may hold (none: any). Labels that don't fit their image are lost. Raises LowInformationError."""
    volume = volume.canonical()
    masks, lost = _masks(labels, volume.grid, values)
    check_information(volume)
    found = survey(volume)
    body = find_body(found.blocks, modalities[0])
    prints = fingerprint(found, body)
    low, high = _kept(body, masks) if crop_body else ((0, 0, 0), volume.grid.shape)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    native = volume.cropped(low, high)
    grid = target_grid(native.grid, spacing_mm, keep_thick)
    stored_body = body.at([index + start for index, start in zip(nearest(native.grid, grid), low, strict=True)])
    small = resample(native, grid, np.int16 if set(modalities) == {"CT"} else np.float32)
    try:
        voxels, contract = to_stored(
            small, stored_body if stored_body.any() else np.ones(grid.shape, bool), modalities, window_hu, percentiles
        )
    except ValueError as error:
        raise LowInformationError(str(error)) from error
    resampled = {task: resample_labels(np.ascontiguousarray(mask[window]), native.grid, grid) for task, mask in masks.items()}
    meta = {
        **_grid_meta(grid, contract, modalities, body.box_mm(volume.grid)),
        "digest": prints.digest,
        "foreground": foreground(voxels, stored_body, modalities, contract),
        "label_values": {task: np.unique(mask).tolist() for task, mask in resampled.items()},
    }
    return Prepared(voxels, stored_body, meta, resampled, prints, lost)


def check_information(volume: Volume) -> None:
    """Each channel must hold a picture, or LowInformationError says what it holds instead."""
    if min(volume.grid.shape) < MIN_SLICES or np.prod(volume.grid.shape) < MIN_VOXELS:
        raise LowInformationError(
            f"has {' x '.join(map(str, volume.grid.shape))} voxels; at least {MIN_SLICES} slices and {MIN_VOXELS} are needed"
        )
    for number, channel in enumerate(volume.voxels):
        try:
            _check_values(channel)
        except LowInformationError as error:
            error.channel = number
            raise


def _check_values(channel: np.ndarray) -> None:
    """Slice by slice from the middle, until all is known."""
    values, counts, seen = np.empty(0, channel.dtype), np.empty(0, np.int64), 0
    for number in sorted(range(channel.shape[2]), key=lambda number: abs(number - channel.shape[2] // 2)):
        more, times = np.unique(channel[:, :, number], return_counts=True)
        seen += channel[:, :, number].size
        values, place = np.unique(np.concatenate([values, more]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, times])).astype(np.int64)
        if len(values) >= MIN_VALUES and counts.max() + channel.size - seen <= MAX_EQUAL * channel.size:
            return
    if len(values) < MIN_VALUES:
        raise LowInformationError(f"has only {len(values)} different values: it is constant, or a mask")
    raise LowInformationError(f"{counts.max() / channel.size:.1%} of its voxels have one value")


def _grid_meta(grid: Grid, contract: Contract, modalities: tuple[str, ...], box: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Where the stored voxels lie, and what their values mean."""
    return {
        "spacing_mm": list(grid.spacing_mm),
        "affine": grid.affine.ravel().tolist(),
        "body_low_mm": box[0].tolist(),
        "body_high_mm": box[1].tolist(),
        "modalities": list(modalities),
        "window_low": list(contract.window_low),
        "window_high": list(contract.window_high),
        "slope": list(contract.slope),
        "inter": list(contract.inter),
    }


def _masks(
    labels: Mapping[str, Volume], grid: Grid, known: Mapping[str, Sequence[int]]
) -> tuple[dict[str, np.ndarray], tuple[LostLabels, ...]]:
    """((D, H, W) uint8 by task, what is wrong with the others)."""
    ordered = {task: volume.canonical() for task, volume in sorted(labels.items())}
    faults = {task: _fault(volume, grid, known.get(task, ())) for task, volume in ordered.items()}
    masks = {task: volume.voxels[0].astype(np.uint8) for task, volume in ordered.items() if faults[task] is None}
    return masks, tuple(LostLabels(task, *fault) for task, fault in faults.items() if fault)


def _fault(labels: Volume, grid: Grid, known: Sequence[int]) -> tuple[str, str] | None:
    """(code, what is wrong) of labels that don't lie where their image lies, or hold anything but ``known`` values."""
    if not labels.grid.same_place(grid):
        return "LABELS_OFF_GRID", f"they lie {elsewhere(labels.grid, grid)}"
    values = labels.voxels[0]
    mask = values.astype(np.uint8)
    if labels.num_channels != 1 or not np.array_equal(mask, values):
        return "LABELS_NOT_WHOLE", "they must be whole numbers from 0 to 255 in one channel"
    unknown = sorted(set(np.unique(mask).tolist()) - {0, *known}) if known else []
    if unknown:
        return "LABELS_VALUES", f"they hold {', '.join(map(str, unknown))}, but the task's classes are {', '.join(map(str, known))}"
    return None


def elsewhere(grid: Grid, image: Grid) -> str:
    """How a grid differs from that of the image, in words."""
    where = f"{grid.shape} voxels of {_rounded(grid.spacing_mm)} mm from {_rounded(grid.affine[:3, 3])}"
    own = f"{image.shape} of {_rounded(image.spacing_mm)} mm from {_rounded(image.affine[:3, 3])}"
    return f"on another grid than their image: {where}, the image {own}"


def _kept(body: Body, masks: Mapping[str, np.ndarray]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Index box of the body and every label, with a margin: cropping never takes a label away."""
    boxes = [body.box(), *(Body.of(mask > 0).box() for mask in masks.values() if mask.any())]
    low = tuple(max(0, min(box[0][axis] for box in boxes) - MARGIN_VOX) for axis in range(3))
    return low, tuple(min(n, max(box[1][axis] for box in boxes) + MARGIN_VOX) for axis, n in enumerate(body.shape))


def _rounded(values: Any) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
