"""Shift, scale, mirror, blur and low resolution of a crop as one small matrix for each axis.

All of these are separable and linear: a row of a matrix says how one voxel of the view is mixed from the region's voxels along that axis.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.keys import on_host
from pipeline.shapes import VoxelsBatch
from pipeline.views._walk import room


def axis_matrix(first: Tensor, step: Tensor, blur_vox: Tensor, factor: Tensor, size: int, extent: int) -> Float[Tensor, "B size extent"]:
    """Rows that sum to 1; all arguments (B,) float32.

    Voxel j of the view lies at index ``first + step * j`` of the extent and is linearly interpolated, or smoothed by a Gaussian of
    ``blur_vox`` where that is positive. With a ``factor`` above 1 only every factor-th place is sampled, and those between are
    interpolated: an acquisition of larger spacing.
    """
    position = torch.arange(size, device=first.device)
    if on_host(factor) and bool((factor == 1.0).all()):
        return _kernel(first[:, None] + step[:, None] * position, blur_vox, extent)
    node = (position / factor[:, None]).floor()
    part = (position / factor[:, None] - node)[:, :, None]
    near, far = node * factor[:, None], ((node + 1) * factor[:, None]).clamp(max=size - 1)
    rows = [_kernel(first[:, None] + step[:, None] * place, blur_vox, extent) for place in (near, far)]
    return torch.lerp(rows[0], rows[1], part)


def mixed(voxels: VoxelsBatch, matrices: list[Tensor]) -> VoxelsBatch:
    """(B, C, *extent) -> (B, C, *size) by one matrix (B, size, extent) along each axis."""
    batch, channels, *extent = voxels.shape
    made = voxels.reshape(batch, -1, extent[2])
    # Each product mixes the last axis and puts it first, so that the axes come round without a copy.
    for matrix, last in zip(reversed(matrices), (extent[1], extent[0], channels), strict=True):
        out = room(made, batch, matrix.shape[1], made.shape[1])
        made = torch.bmm(matrix, made.transpose(1, 2), out=out).reshape(batch, -1, last)
    made = made.reshape(batch, *(matrix.shape[1] for matrix in matrices), channels)
    return made.permute(0, 4, 1, 2, 3).contiguous()


def _kernel(position: Tensor, blur_vox: Tensor, extent: int) -> Tensor:
    """(B, size) positions -> (B, size, extent) weights."""
    distance, sigma = position[:, :, None] - torch.arange(extent, device=position.device), blur_vox[:, None, None]
    if not on_host(blur_vox):
        return torch.where(sigma > 0, _smooth(distance, sigma), _linear(distance))
    rows, weights = (blur_vox > 0).nonzero()[:, 0], _linear(distance)
    return weights.index_copy_(0, rows, _smooth(distance[rows], sigma[rows])) if len(rows) else weights


def _linear(distance: Tensor) -> Tensor:
    return (1.0 - distance.abs()).clamp(min=0.0)


def _smooth(distance: Tensor, sigma: Tensor) -> Tensor:
    weights = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)) ** 2)
    return weights / weights.sum(2, keepdim=True).clamp(min=1e-12)
