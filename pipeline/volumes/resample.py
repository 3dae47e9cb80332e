"""Resampling: one separable linear filter, which widens where the grid gets coarser and so does not alias.

Along each axis an output voxel is the mean of the linear interpolant over sqrt(s^2 - 1) input voxels, where s is new spacing / old spacing:
so much box has to be added to a box of one voxel to get the variance of one of s voxels. Where the grid gets finer this is plain
linear interpolation; either way a slope in mm is kept exactly. Everything is element-wise float32 arithmetic in a fixed order: the same
bytes on every machine and thread count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from scipy import ndimage

from anatomy.grid import Grid
from pipeline.volumes.planes import planes
from pipeline.volumes.volume import Volume

THICK = 3.0
SAME_MM = 1e-3
BLOCK, BLOCK_BYTES = (16, 128), 1 << 23  # pictures laid into the volume at once, which runs across them: as many as these bytes hold
Taps = tuple[np.ndarray, np.ndarray] | None


def target_grid(grid: Grid, spacing_mm: tuple[float, float, float] | Literal["native"], keep_thick: bool = True) -> Grid:
    """The grid a canonical volume is stored on. It is the grid itself where nothing changes.

    An axis whose spacing is more than 3 times the smallest one is not made finer, unless ``keep_thick`` is False: that would only
    invent slices.
    """
    if spacing_mm == "native":
        return grid
    native = grid.spacing_mm
    wanted = tuple(
        old if (keep_thick and old > THICK * min(native) and new < old) or abs(new - old) < SAME_MM else float(new)
        for old, new in zip(native, spacing_mm, strict=True)
    )
    return grid if wanted == native else grid.resampled(wanted)


def resample(volume: Volume, grid: Grid, kind: type = np.float32) -> Volume:
    """The volume on a grid that ``target_grid`` gave for its own (same axes, another spacing); voxels come back as float32, or rounded to
    int16 as they come."""
    if grid is volume.grid:
        return volume
    taps = _all_taps(volume.grid, grid)
    voxels = np.empty((volume.num_channels, *grid.shape), dtype=kind)
    for channel, out in zip(volume.voxels, voxels, strict=True):
        _filter(channel, taps, out)
    return Volume(voxels, grid)


def nearest(old: Grid, new: Grid) -> list[np.ndarray]:
    """Of each axis (m,): the old index that is nearest to each new one, the lower one halfway."""
    return [_nearest(n, m, b / a) for n, m, a, b in zip(old.shape, new.shape, old.spacing_mm, new.spacing_mm, strict=True)]


def resample_mask(mask: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """(D, H, W) bool -> bool on the new grid: where at least half of the filter's weight is inside."""
    return mask if new is old else _filter(mask, _all_taps(old, new)) >= 0.5


def resample_labels(labels: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """(D, H, W) uint8 -> uint8: each value is resampled as a mask of its own, and the value of most weight wins (0 on a tie).

    Nearest neighbours would tear thin structures where the grid gets coarser. Between thick slices that are made finer the nearest one
    decides: what lies between two outlines there nobody drew. Only the box around a value is worked on.
    """
    if new is old:
        return labels
    taps = _label_taps(old, new)
    best = np.zeros(new.shape, dtype=np.uint8)
    weight = _filter(labels == 0, taps)
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        parts = [_part(tap, edge, n) for tap, edge, n in zip(taps, box, new.shape, strict=True)]
        inner = labels[tuple(source for source, _, _ in parts)] == value
        share = _filter(inner, [tap for _, _, tap in parts])
        target = tuple(span for _, span, _ in parts)
        wins = share > weight[target]
        best[target][wins] = value
        weight[target][wins] = share[wins]
    return best


def onto(volume: Volume, grid: Grid, fill: float) -> Volume:
    """The volume on any other grid, oblique to its own or not; what lies outside is ``fill``. Linear, without aliasing."""
    if volume.grid.same_place(grid, SAME_MM):
        return Volume(volume.voxels, grid)
    to_old = np.linalg.inv(volume.grid.affine) @ grid.affine
    step = np.abs(to_old[:3, :3]).sum(axis=1)
    coarser = tuple(float(s * max(1.0, f)) for s, f in zip(volume.grid.spacing_mm, step, strict=True))
    smooth = resample(volume, target_grid(volume.grid, coarser)) if step.max() > 1 + SAME_MM else volume
    matrix = np.linalg.inv(smooth.grid.affine) @ grid.affine
    channels = [
        ndimage.affine_transform(channel.astype(np.float32), matrix[:3, :3], matrix[:3, 3], grid.shape, order=1, cval=fill)
        for channel in smooth.voxels
    ]
    return Volume(np.stack(channels), grid)


def _all_taps(old: Grid, new: Grid) -> list[Taps]:
    """Per axis (indices (n, T), weights (n, T) float32), or None where the axis stays as it is."""
    return [_taps(n, m, a, b) for n, m, a, b in zip(old.shape, new.shape, old.spacing_mm, new.spacing_mm, strict=True)]


def _label_taps(old: Grid, new: Grid) -> list[Taps]:
    """As ``_all_taps``, but one tap of weight 1 along an axis of thick slices that gets finer."""
    taps = _all_taps(old, new)
    for axis, (n, m, a, b) in enumerate(zip(old.shape, new.shape, old.spacing_mm, new.spacing_mm, strict=True)):
        if a > THICK * min(old.spacing_mm) and b < a and taps[axis] is not None:
            taps[axis] = _nearest(n, m, b / a)[:, None], np.ones((m, 1), dtype=np.float32)
    return taps


def _nearest(num_old: int, num_new: int, scale: float) -> np.ndarray:
    centre = (num_old - 1) / 2 + (np.arange(num_new) - (num_new - 1) / 2) * scale
    return np.clip(np.ceil(centre - 0.5), 0, num_old - 1).astype(np.int64)


def _taps(num_old: int, num_new: int, old_mm: float, new_mm: float) -> Taps:
    if num_old == num_new and abs(old_mm - new_mm) < SAME_MM:
        return None
    scale = new_mm / old_mm
    centre = (num_old - 1) / 2 + (np.arange(num_new) - (num_new - 1) / 2) * scale
    width = np.sqrt(max(scale**2 - 1.0, 0.0))
    reach = 1.0 + width / 2
    index = np.ceil(centre - reach)[:, None].astype(np.int64) + np.arange(int(np.floor(2 * reach)) + 1)
    away = centre[:, None] - index
    if width > 1e-3:
        weight = (_hat_integral(away + width / 2) - _hat_integral(away - width / 2)) / width
    else:
        weight = np.clip(1.0 - np.abs(away), 0.0, None)
    clamped = np.clip(index, 0, num_old - 1)  # past the end the last voxel goes on
    return clamped, (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def _hat_integral(position: np.ndarray) -> np.ndarray:
    """Of max(0, 1 - |x|), from minus infinity."""
    left = np.clip(position, -1.0, 0.0)
    right = np.clip(position, 0.0, 1.0)
    return (1.0 + left) ** 2 / 2 + right - right**2 / 2


def _part(taps: Taps, box: slice, size: int) -> tuple[slice, slice, Taps]:
    """Of one axis: the input span, the output span and the taps between them that a box of the input can reach."""
    if taps is None:
        return box, box, None
    index, weight = taps
    rows = np.flatnonzero((index.max(axis=1) >= box.start) & (index.min(axis=1) < box.stop))
    if rows.size == 0:
        return slice(box.start, box.start + 1), slice(0, 0), (index[:0], weight[:0])
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    source = slice(int(index[span].min()), int(index[span].max()) + 1)
    return source, span, (index[span] - source.start, weight[span])


def _filter(array: np.ndarray, taps: list[Taps], out: np.ndarray | None = None) -> np.ndarray:
    """(D, H, W) of any type -> float32, or int16 where ``out`` is: each axial picture by itself, so that it stays in the cache; then along
    the third axis. Besides ``out`` no more than the pictures under the filter are held."""
    shape = tuple(n if tap is None else len(tap[0]) for n, tap in zip(array.shape, taps, strict=True))
    out = np.empty(shape, dtype=np.float32) if out is None else out
    at_once = int(np.clip(BLOCK_BYTES // max(1, out[:, :, 0].nbytes), *BLOCK))
    block = np.empty((min(at_once, shape[2]), *shape[:2]), dtype=out.dtype)
    for number, picture in enumerate(_along(_pictures(array, taps), taps[2])):
        if out.dtype == np.int16:
            picture = np.clip(np.rint(picture), -32768, 32767)
        block[number % len(block)] = picture
        done = number % len(block) + 1
        if done == len(block) or number + 1 == shape[2]:
            out[:, :, number + 1 - done : number + 1] = block[:done].transpose(1, 2, 0)
    return out


def _pictures(array: np.ndarray, taps: list[Taps]) -> Iterator[np.ndarray]:
    """Each axial picture (d, h) float32, filtered along both of its axes."""
    along_rows = _spread(taps[1], array.shape[0])
    along_columns = _spread(taps[0], array.shape[1] if taps[1] is None else len(taps[1][0]))
    for picture in planes(array):
        rows = _rows(picture.astype(np.float32, copy=False), along_rows)
        yield _rows(np.ascontiguousarray(rows.T), along_columns)


def _along(pictures: Iterator[np.ndarray], taps: Taps) -> Iterator[np.ndarray]:
    """Filtered from picture to picture."""
    if taps is None:
        yield from pictures
        return
    held: dict[int, np.ndarray] = {}
    numbered = enumerate(pictures)
    for index, weight in zip(*taps, strict=True):
        used = [(int(i), w) for i, w in zip(index, weight, strict=True) if w]
        while used[-1][0] not in held:
            number, picture = next(numbered)
            held[number] = picture
        for number in [number for number in held if number < used[0][0]]:
            del held[number]
        total = held[used[0][0]] * used[0][1]
        for number, share in used[1:]:
            total += held[number] * share
        yield total


def _spread(taps: Taps, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(indices (n,), weights (n, width)) of each tap: a product with whole rows of weights is faster than with a number a row."""
    if taps is None:
        return []
    index, weight = (part.T for part in taps)
    return [(i, np.repeat(w[:, None], width, axis=1)) for i, w in zip(index, weight, strict=True)]


def _rows(picture: np.ndarray, taps: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Filtered along the first axis; as it is where there are no taps."""
    if not taps:
        return picture
    (index, weight), *others = taps
    out = picture.take(index, axis=0)
    out *= weight
    part = np.empty_like(out)
    for index, weight in others:
        picture.take(index, axis=0, out=part, mode="clip")  # the indices are right; to check them numpy would copy once more
        part *= weight
        out += part
    return out
