"""Elastic deformation: a smooth random displacement in mm, sampled linearly.

White noise on coarse knots, smoothed by one Gaussian matrix per axis (the smoothed noise field of Simard et al. 2003, separable).
Each row of a matrix has unit norm, so the field has the same variance everywhere, borders included.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.keys import normal
from pipeline.shapes import AffineBatch, VoxelsBatch
from pipeline.views._crop import along, vector
from pipeline.views._walk import alone, slabs, take

Field = Float[Tensor, "B 3 D H W"]
# Mean length of a vector of 1, 2, 3 standard normal numbers.
_MEAN_LENGTH = {1: math.sqrt(2 / math.pi), 2: math.sqrt(math.pi / 2), 3: math.sqrt(8 / math.pi)}
_MOST_KNOTS = 13
_LEAST_STEP_VOX = 4


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
    twelfth of the side or 4 voxels). Along each axis the displacement is clamped to the margin, so that no place lies outside the
    voxels given. Knots of two axes displace along the first two only. Sampling is trilinear.
    """
    spacing = affine[:, :3, :3].norm(dim=1).to(torch.float32)
    directions = affine[:, :3, :3].to(torch.float32) / spacing[:, None]
    straight = alone(voxels) and torch.equal(directions[0], torch.eye(3))
    axes = knots.shape[1]
    first, second, third = (_smoothing(n, smooth_mm / spacing[:, axis]) for axis, n in enumerate(size_vox))
    coarse = knots * (mean_mm / _MEAN_LENGTH[axes]) @ third.transpose(1, 2)[:, None, None]
    coarse = (second[:, None, None] @ coarse).flatten(3)
    limit = (spacing * vector(margin_vox, spacing))[:, :axes, None, None, None]
    crops = voxels.new_empty(*voxels.shape[:2], *size_vox)
    warp_mm = voxels.new_empty(len(voxels), 3, *size_vox)
    for rows in slabs(voxels, size_vox):
        field = (first[:, None, rows] @ coarse).reshape(len(voxels), axes, -1, *size_vox[1:])
        field = torch.minimum(torch.maximum(field, -limit, out=field), limit, out=field)
        if straight:
            warp_mm[:, :axes, rows], warp_mm[:, axes:, rows] = field, 0.0
        else:
            warp_mm[:, :, rows] = torch.einsum("bij,bjdhw->bidhw", directions[:, :, :axes], field)
        crops[:, :, rows] = _sampled(voxels, field.div_(spacing[:, :axes, None, None, None]), margin_vox, rows.start)
    return crops, warp_mm


def _sampled(voxels: VoxelsBatch, shift_vox: Tensor, margin_vox: Sequence[int], first: int) -> VoxelsBatch:
    """A slab of the crop that begins at slice ``first``; shift_vox (B, axes, d, H, W)."""
    batch, channels, *extent = voxels.shape
    size = shift_vox.shape[2:]
    strides = (extent[1] * extent[2], extent[2], 1)
    index, parts = torch.zeros((), dtype=torch.int32, device=voxels.device), []
    for axis in range(3):
        begin = margin_vox[axis] + (first if axis == 0 else 0)
        place = along(torch.arange(begin, begin + size[axis], device=voxels.device, dtype=torch.int32)[None], axis)
        if axis < shift_vox.shape[1]:
            position = shift_vox[:, axis] + place
            place = position.to(torch.int32).clamp_(0, extent[axis] - 2)
            parts.append(position.sub_(place).flatten(1))
        index = index + place * strides[axis]
    values, index = voxels.flatten(2), index.expand(batch, *size).flatten(1)
    return _interpolated(values, index, strides[: len(parts)], parts).reshape(batch, channels, *size)


def _interpolated(values: Tensor, index: Tensor, strides: tuple[int, ...], parts: list[Tensor]) -> Tensor:
    if not strides:
        return take(values, index)
    low = _interpolated(values, index, strides[1:], parts[1:])
    high = _interpolated(values[:, :, strides[0] :], index, strides[1:], parts[1:])
    return torch.lerp(low, high, parts[0][:, None])


def _num_knots(size: int) -> tuple[int, float]:
    """Number of knots along an axis, and their distance in voxels."""
    step = max(_LEAST_STEP_VOX, (size - 1) / (_MOST_KNOTS - 1))
    return max(2, math.ceil((size - 1) / step) + 1), step


def _smoothing(size: int, deviation_vox: Tensor) -> Tensor:
    """(B, size, knots), rows of unit norm; knots lie symmetrically about the middle."""
    number, step = _num_knots(size)
    knots = (torch.arange(number, device=deviation_vox.device) - (number - 1) / 2) * step + (size - 1) / 2
    distance = torch.arange(size, device=knots.device)[:, None] - knots
    weight = torch.exp(-0.5 * (distance / deviation_vox.clamp(min=step)[:, None, None]) ** 2)
    return weight / weight.norm(dim=2, keepdim=True)
