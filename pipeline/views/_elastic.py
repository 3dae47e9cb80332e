"""Elastic deformation: a smooth random displacement in mm, sampled linearly.

White noise on coarse knots, smoothed by one Gaussian matrix per axis (the smoothed noise field of Simard et al. 2003, separable).
Each row of a matrix has unit norm, so the field has the same variance everywhere, borders included.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from pipeline.keys import normal
from pipeline.shapes import AffineBatch, VoxelsBatch
from pipeline.views._crop import along
from pipeline.views._walk import alone, room, slabs, take

Field = Float[Tensor, "B 3 D H W"]
# Mean length of a vector of 1, 2, 3 standard normal numbers.
_MEAN_LENGTH = {1: math.sqrt(2 / math.pi), 2: math.sqrt(math.pi / 2), 3: math.sqrt(8 / math.pi)}
_MOST_KNOTS = 13
_LEAST_STEP_VOX = 4
_JUST_LESS = 1.0 - 2.0**-23
_PLANES = 16  # of the last axis: float32 that fill a line of the cache


def draw_knots(keys: Tensor, size_vox: Sequence[int], axes: int) -> Tensor:
    """(B, axes, knots along D, H, W) standard normal."""
    return normal(keys, axes, *(_num_knots(n)[0] for n in size_vox))


def deformed(
    voxels: VoxelsBatch,
    knots: Tensor,
    affine: AffineBatch,
    size_vox: tuple[int, int, int],
    mean_mm: float,
    smooth_mm: float,
    margin_vox: Sequence[int],
) -> tuple[VoxelsBatch, Field]:
    """Voxels with a margin -> crops (B, C, *size_vox), and the displacement in RAS+ mm that each of their voxels was taken from.

    ``mean_mm`` is the mean length of the displacement, ``smooth_mm`` the deviation of the Gaussian (no less than the knots' distance, a
    twelfth of the side or 4 voxels). Along each axis the displacement is clamped to the margin, so that no place lies outside the voxels
    given. Knots of two axes displace along the first two only. Sampling is linear along the axes displaced.
    """
    columns = affine[:, :3, :3].to(torch.float32)
    spacing, axes = columns.norm(dim=1), knots.shape[1]
    straight = alone(voxels) and torch.equal(columns[0], torch.diag(spacing[0]))
    first, second, third = (_smoothing(n, smooth_mm / spacing[:, axis]) for axis, n in enumerate(size_vox))
    knots_vox = knots * (mean_mm / _MEAN_LENGTH[axes] / spacing[:, :axes, None, None, None])
    crops = room(voxels, *voxels.shape[:2], *size_vox)
    warp_mm = room(voxels, len(voxels), 3, *size_vox)
    if straight and axes == 2:
        field = second[0] @ (first[0] @ knots_vox[0].flatten(2)).unflatten(2, knots.shape[3:])
        _in_planes(voxels[0], field, third[0], spacing[0].tolist(), margin_vox, crops[0], warp_mm[0])
        return crops, warp_mm
    coarse = knots_vox @ third.transpose(1, 2)[:, None, None]
    coarse = (second[:, None, None] @ coarse).flatten(3)
    for rows in slabs(voxels, size_vox):
        shift_vox = (first[:, None, rows] @ coarse).reshape(len(voxels), axes, -1, *size_vox[1:])
        for axis in range(axes):
            shift_vox[:, axis].clamp_(-margin_vox[axis], margin_vox[axis])
        if straight:
            torch.mul(shift_vox, spacing[:, :axes, None, None, None], out=warp_mm[:, :axes, rows])
            warp_mm[:, axes:, rows] = 0.0
        else:
            warp_mm[:, :, rows] = torch.einsum("bij,bjdhw->bidhw", columns[:, :, :axes], shift_vox)
        _sample(voxels, shift_vox, margin_vox, rows.start, crops[:, :, rows])
    return crops, warp_mm


def _in_planes(
    voxels: Tensor,
    field: Tensor,
    third: Tensor,
    spacing_mm: Sequence[float],
    margin_vox: Sequence[int],
    crops: Tensor,
    warp_mm: Tensor,
) -> None:
    """One sample on a CPU, displaced along the first two axes only: every plane of the last axis is a picture, and PyTorch's sampler of
    pictures is vectorised. The displacement in voxels is field (2, D, H, knots) times third (W, knots). Fills crops and warp_mm.
    """
    depth, height, width = crops.shape[1:]
    for part in slabs(voxels[None], crops.shape[1:]):
        for axis in range(2):
            shift = torch.mm(field[axis, part].flatten(0, 1), third.T, out=warp_mm[axis, part].flatten(0, 1))
            shift.clamp_(-margin_vox[axis], margin_vox[axis])
            if spacing_mm[axis] != 1.0:
                shift.mul_(spacing_mm[axis])
    warp_mm[2] = 0.0
    # The sampler counts from -1 to 1, and wants columns before rows.
    scales = [2.0 / (n - 1) for n in voxels.shape[1:3]]
    rows, columns = (torch.arange(m, m + n) * scale - 1.0 for n, m, scale in zip((depth, height), margin_vox, scales, strict=False))
    still = torch.stack([columns.expand(depth, -1), rows[:, None].expand(-1, height)])
    planes, pictures = field.flip(0).flatten(0, 2).T.contiguous(), voxels.narrow(3, margin_vox[2], width).permute(3, 0, 1, 2)
    places = room(voxels, _PLANES, 2, depth, height)
    for first in range(0, width, _PLANES):
        part = slice(first, min(first + _PLANES, width))
        place = places[: part.stop - first]
        torch.mm(third[part], planes, out=place.flatten(1))
        for axis in (1, 0):
            shift = place[:, 1 - axis].clamp_(-margin_vox[axis], margin_vox[axis])
            torch.add(still[1 - axis], shift, alpha=scales[axis], out=shift)
        made = grid_sample(pictures[part], place.permute(0, 2, 3, 1), padding_mode="border", align_corners=True)
        crops[..., part].copy_(made.permute(1, 2, 3, 0))


def _sample(voxels: VoxelsBatch, shift_vox: Tensor, margin_vox: Sequence[int], first: int, crops: VoxelsBatch) -> None:
    """Fills the slab of the crops that begins at slice ``first``; shift_vox (B, axes, d, H, W) is used up."""
    extent, size = voxels.shape[2:], shift_vox.shape[2:]
    index, parts = None, []
    for axis in range(3):
        begin = margin_vox[axis] + (first if axis == 0 else 0)
        # Floats added to floats, and places rounded down once: with operands of two types PyTorch leaves its vectorised loops.
        if axis < shift_vox.shape[1]:
            position = shift_vox[:, axis].add_(along(_count(begin, size[axis], shift_vox), axis))
            place = position.clamp_(max=(extent[axis] - 1) * _JUST_LESS).to(torch.int32)
            parts.append(position.frac_()[:, None])
        else:
            place = along(_count(begin, size[axis], place), axis)
        index = place if index is None else torch.add(place, index, alpha=extent[axis])
    strides = (extent[1] * extent[2], extent[2], 1)
    _interpolated(voxels.flatten(2), index.expand(-1, *size), strides[: len(parts)], parts, crops)


def _count(begin: int, number: int, like: Tensor) -> Tensor:
    """(1, number) begin, begin + 1, ..."""
    return torch.arange(begin, begin + number, device=like.device, dtype=like.dtype)[None]


def _interpolated(values: Tensor, index: Tensor, strides: tuple[int, ...], parts: list[Tensor], crops: VoxelsBatch | None = None) -> Tensor:
    """(B, C, N) values at an index (B, d, H, W) and, along each stride, a part of the way to the next; written to ``crops`` if given."""
    if not strides:
        return take(values, index.flatten(1)).reshape(*values.shape[:2], *index.shape[1:])
    low = _interpolated(values, index, strides[1:], parts[1:])
    high = _interpolated(values[:, :, strides[0] :], index, strides[1:], parts[1:])
    return torch.lerp(low, high, parts[0], out=low if crops is None else crops)


def _num_knots(size: int) -> tuple[int, float]:
    """Number of knots along an axis, and their distance in voxels."""
    step = max(_LEAST_STEP_VOX, (size - 1) / (_MOST_KNOTS - 1))
    return max(2, math.ceil((size - 1) / step) + 1), step


def _smoothing(size: int, deviation_vox: Tensor) -> Tensor:
    """(B, size, knots), rows of unit norm; knots lie symmetrically about the middle."""
    return _smoothing_one(size, float(deviation_vox)) if alone(deviation_vox) else _smoothing_of(size, deviation_vox)


@lru_cache(maxsize=64)
def _smoothing_one(size: int, deviation_vox: float) -> Tensor:
    """Scans of a store mostly have one spacing."""
    return _smoothing_of(size, torch.tensor([deviation_vox]))


def _smoothing_of(size: int, deviation_vox: Tensor) -> Tensor:
    number, step = _num_knots(size)
    knots = (torch.arange(number, device=deviation_vox.device) - (number - 1) / 2) * step + (size - 1) / 2
    distance = torch.arange(size, device=knots.device)[:, None] - knots
    weight = torch.exp(-0.5 * (distance / deviation_vox.clamp(min=step)[:, None, None]) ** 2)
    return weight / weight.norm(dim=2, keepdim=True)
