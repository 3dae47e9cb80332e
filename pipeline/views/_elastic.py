"""Elastic deformation: a smooth random displacement in mm, sampled linearly.

White noise on coarse knots, smoothed by one Gaussian matrix per axis (Simard et al. 2003's smoothed noise field, separable). Each row of a matrix has
unit norm, so the field has the same variance everywhere, borders included.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.keys import normal
from pipeline.shapes import AffineBatch, VoxelsBatch
from pipeline.views._crop import along
from pipeline.views._walk import take

Field = Float[Tensor, "B 3 D H W"]
# Mean length of a vector of 1, 2, 3 standard normal numbers.
_MEAN_LENGTH = {1: math.sqrt(2 / math.pi), 2: math.sqrt(math.pi / 2), 3: math.sqrt(8 / math.pi)}
_MOST_KNOTS = 13
_LEAST_STEP_VOX = 4


def draw_knots(keys: Tensor, size_vox: Sequence[int], axes: int) -> Tensor:
    """(B, axes, knots along D, H, W) standard normal."""
    return normal(keys, axes, *(len(_knots_vox(n)) for n in size_vox))


def displacement_mm(
    knots: Tensor, size_vox: tuple[int, int, int], spacing_mm: Tensor, mean_mm: float, smooth_mm: float, most_vox: Sequence[int]
) -> Field:
    """(B, 3, D, H, W) float32 displacement along the array's axes; the last axes are 0 if knots displace fewer than three.

    ``mean_mm`` is the mean length, ``smooth_mm`` the deviation of the Gaussian (no less than the knots' distance, a twelfth of the
    side or 4 voxels). Along each axis it is clamped to ``most_vox`` voxels. spacing_mm is (B, 3) float32.
    """
    axes = knots.shape[1]
    first, second, third = (_smoothing(n, smooth_mm / spacing_mm[:, axis]) for axis, n in enumerate(size_vox))
    field = knots * (mean_mm / _MEAN_LENGTH[axes])
    field = field @ third.transpose(1, 2)[:, None, None]
    field = second[:, None, None] @ field
    field = (first[:, None] @ field.flatten(3)).reshape(len(knots), axes, *size_vox)
    limit = spacing_mm[:, :axes] * torch.tensor(most_vox[:axes], device=knots.device)
    limit = limit[:, :, None, None, None]
    field = torch.minimum(torch.maximum(field, -limit, out=field), limit, out=field)
    return field if axes == 3 else torch.nn.functional.pad(field, (0, 0) * 3 + (0, 3 - axes))


def displaced(voxels: VoxelsBatch, field_mm: Field, spacing_mm: Tensor, axes: int) -> VoxelsBatch:
    """Voxels with a margin -> (B, C, D, H, W) crops that take each value from its displaced place; trilinear.

    The margin must be at least the largest displacement along the first ``axes`` axes; the others are not displaced.
    """
    batch, channels, *extent = voxels.shape
    size = field_mm.shape[2:]
    strides = (extent[1] * extent[2], extent[2], 1)
    index, parts = torch.zeros((), dtype=torch.int32, device=voxels.device), []
    for axis in range(3):
        margin = (extent[axis] - size[axis]) // 2
        place = torch.arange(margin, margin + size[axis], device=voxels.device, dtype=torch.int32)
        place = along(place[None], axis)
        if axis < axes:
            position = field_mm[:, axis] / spacing_mm[:, axis, None, None, None]
            position += place
            place = position.to(torch.int32).clamp_(0, extent[axis] - 2)
            parts.append(position.sub_(place).flatten(1))
        index = index + place * strides[axis]
    values, index = voxels.flatten(2), index.expand(batch, *size).flatten(1)
    return _interpolated(values, index, strides[:axes], parts).reshape(batch, channels, *size)


def world_mm(field_mm: Field, affine: AffineBatch, spacing_mm: Tensor) -> Field:
    """Displacement along the array's axes -> along Right, Anterior, Superior."""
    directions = (affine[:, :3, :3] / spacing_mm[:, None]).to(torch.float32)
    return torch.einsum("bij,bjdhw->bidhw", directions, field_mm)


def _interpolated(values: Tensor, index: Tensor, strides: tuple[int, ...], parts: list[Tensor]) -> Tensor:
    if not strides:
        return take(values, index)
    low = _interpolated(values, index, strides[1:], parts[1:])
    high = _interpolated(values[:, :, strides[0] :], index, strides[1:], parts[1:])
    return torch.lerp(low, high, parts[0][:, None])


def _knots_vox(size: int) -> Tensor:
    step = max(_LEAST_STEP_VOX, (size - 1) / (_MOST_KNOTS - 1))
    number = max(2, math.ceil((size - 1) / step) + 1)
    return (torch.arange(number) - (number - 1) / 2) * step + (size - 1) / 2


def _smoothing(size: int, deviation_vox: Tensor) -> Tensor:
    """(B, size, knots), rows of unit norm."""
    knots = _knots_vox(size).to(deviation_vox.device)
    step = knots[1] - knots[0]
    distance = torch.arange(size, device=knots.device)[:, None] - knots
    weight = torch.exp(-0.5 * (distance / torch.maximum(deviation_vox, step)[:, None, None]) ** 2)
    return weight / weight.norm(dim=2, keepdim=True)
