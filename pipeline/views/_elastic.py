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
from pipeline.views._crop import along
from pipeline.views._walk import alone, room, slabs, take

Field = Float[Tensor, "B 3 D H W"]
# Mean length of a vector of 1, 2, 3 standard normal numbers.
_MEAN_LENGTH = {1: math.sqrt(2 / math.pi), 2: math.sqrt(math.pi / 2), 3: math.sqrt(8 / math.pi)}
_MOST_KNOTS = 13
_LEAST_STEP_VOX = 4
_JUST_LESS = 1.0 - 2.0**-23


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
    first, second, third = (_smoothing(n, smooth_mm / spacing[:, axis]) for axis, n in enumerate(size_vox))
    scale = mean_mm / _MEAN_LENGTH[axes] / spacing[:, :axes, None, None, None]
    coarse = knots * scale @ third.transpose(1, 2)[:, None, None]
    coarse = (second[:, None, None] @ coarse).flatten(3)
    crops = room(voxels, *voxels.shape[:2], *size_vox)
    if alone(voxels):
        warp_mm = room(voxels, 1, 3, *size_vox)
        _walk(voxels[0], first[0], coarse[0], columns[0], margin_vox, crops[0], warp_mm[0])
        return crops, warp_mm
    shift_vox = (first[:, None] @ coarse).reshape(len(voxels), axes, *size_vox)
    for axis in range(axes):
        shift_vox[:, axis].clamp_(-margin_vox[axis], margin_vox[axis])
    warp_mm = torch.einsum("bij,bjdhw->bidhw", columns[:, :, :axes], shift_vox)
    _sample(voxels, shift_vox, margin_vox, crops)
    return crops, warp_mm


def _walk(
    voxels: Tensor, first: Tensor, coarse: Tensor, columns: Tensor, margin_vox: Sequence[int], crops: Tensor, warp_mm: Tensor
) -> None:
    """The same of one sample on a CPU, slab by slab in memory that stays in the caches: fills crops (C, D, H, W) and warp_mm (3, D, H, W)."""
    extent, size, axes = voxels.shape[1:], crops.shape[1:], len(coarse)
    strides = (extent[1] * extent[2], extent[2], 1)
    parts = slabs(voxels[None], size)
    most = parts[0].stop
    shift, place = room(voxels, axes, most, *size[1:]), room(voxels, axes, most, *size[1:], dtype=torch.int32)
    low, index = _corner(most, size, margin_vox[axes:], strides), room(place, most, *size[1:])
    scratch = [room(voxels, most * size[1] * size[2]) for _ in range(axes)]
    for part in parts:
        here = slice(0, part.stop - part.start)
        for axis in range(axes):
            margin = margin_vox[axis]
            torch.mm(first[part], coarse[axis], out=shift[axis, here].flatten(1)).clamp_(-margin, margin)
        _to_mm(shift[:, here], columns, warp_mm[:, part])
        for axis in range(axes):
            position = shift[axis, here].add_(margin_vox[axis]).clamp_(max=2 * margin_vox[axis] * _JUST_LESS)
            place[axis, here].copy_(position)
            position.frac_()
            torch.add(index[here] if axis else low[here], place[axis, here], alpha=strides[axis], out=index[here])
        flat, ways = index[here].flatten(), [one.flatten() for one in shift[:, here]]
        for values, crop in zip(voxels.flatten(1), crops[:, part], strict=True):
            _between(values[part.start * strides[0] :], flat, strides[:axes], ways, [one[: len(flat)] for one in scratch], crop.flatten())


def _corner(most: int, size: Sequence[int], still_margin_vox: Sequence[int], strides: Sequence[int]) -> Tensor:
    """(most, H, W) int32 linear index of the first place within reach of each voxel of the first slices."""
    index = torch.zeros(1, 1, 1, dtype=torch.int32)
    for axis, number in enumerate((most, *size[1:])):
        moved = 3 - len(still_margin_vox)
        begin = still_margin_vox[axis - moved] if axis >= moved else 0
        index = index + along(torch.arange(begin, begin + number, dtype=torch.int32)[None] * strides[axis], axis)[0]
    return index


def _to_mm(shift_vox: Tensor, columns: Tensor, warp_mm: Tensor) -> None:
    """(axes, d, H, W) voxels -> (3, d, H, W) mm."""
    axes = len(shift_vox)
    if torch.equal(columns, torch.diag(columns.diagonal())):
        torch.mul(shift_vox, columns.diagonal()[:axes, None, None, None], out=warp_mm[:axes])
        warp_mm[axes:] = 0.0
    else:
        warp_mm.copy_(torch.einsum("ij,jdhw->idhw", columns[:, :axes], shift_vox))


def _between(values: Tensor, index: Tensor, strides: Sequence[int], ways: list[Tensor], scratch: list[Tensor], out: Tensor) -> Tensor:
    """(N,) values at an index (M,) and, along each stride, a part of the way to the next -> out (M,)."""
    if not strides:
        return torch.index_select(values, 0, index, out=out)
    low = _between(values, index, strides[1:], ways[1:], scratch[1:], out)
    high = _between(values[strides[0] :], index, strides[1:], ways[1:], scratch[1:], scratch[0])
    return torch.lerp(low, high, ways[0], out=out)


def _sample(voxels: VoxelsBatch, shift_vox: Tensor, margin_vox: Sequence[int], crops: VoxelsBatch) -> None:
    """Fills the crops; shift_vox (B, axes, D, H, W) is used up."""
    extent, size = voxels.shape[2:], shift_vox.shape[2:]
    index, parts = None, []
    for axis in range(3):
        begin = margin_vox[axis]
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
    number, step = _num_knots(size)
    knots = (torch.arange(number, device=deviation_vox.device) - (number - 1) / 2) * step + (size - 1) / 2
    distance = torch.arange(size, device=knots.device)[:, None] - knots
    weight = torch.exp(-0.5 * (distance / deviation_vox.clamp(min=step)[:, None, None]) ** 2)
    return weight / weight.norm(dim=2, keepdim=True)
