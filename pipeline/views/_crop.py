"""The centred crop of a region: normalised voxels, where they lie, and which of them lie inside the volume."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from pipeline.keys import on_host
from pipeline.shapes import AffineBatch, MaskBatch, VoxelsBatch
from pipeline.step import Region
from pipeline.views._walk import alone, room, slabs

Bounds = Int64[Tensor, "B 3 2"]  # index ranges: first, last + 1


def low_of(region: Region, margin_vox: tuple[int, int, int] = (0, 0, 0)) -> tuple[int, int, int]:
    """Region index where the centred crop begins, grown by a margin on each side."""
    low = tuple(n - m for n, m in zip(region.low_vox(), margin_vox, strict=True))
    assert min(low) >= 0, f"the region {tuple(region.voxels.shape[2:])} is smaller than the view's extent_vox"
    return low


def normalised(region: Region, margin_vox: tuple[int, int, int] = (0, 0, 0)) -> VoxelsBatch:
    """(B, C, *size + 2 margin) float32 in [0, 1]: (stored - window_low) / (window_high - window_low), clamped."""
    cut = region.voxels
    for axis, (low, size, margin) in enumerate(zip(low_of(region, margin_vox), region.size_vox, margin_vox, strict=True)):
        cut = cut.narrow(axis + 2, low, size + 2 * margin)
    low, high = region.window[:, :, None, None, None, :].unbind(-1)
    made = room(cut, *cut.shape, dtype=torch.float32)
    for part in slabs(cut, cut.shape[2:]):
        made[:, :, part].copy_(cut[:, :, part]).sub_(low).div_(high - low).clamp_(0.0, 1.0)
    return made


def affine_at(region: Region, first_vox: Tensor, step_vox: Tensor) -> AffineBatch:
    """(B, 4, 4) affine of a view whose voxel j lies at region index ``first_vox + step_vox * j``; both (B, 3) float64."""
    affine = region.affine.clone()
    affine[:, :3, 3] = region.affine[:, :3, 3] + (region.affine[:, :3, :3] @ first_vox[:, :, None])[:, :, 0]
    affine[:, :3, :3] = region.affine[:, :3, :3] * step_vox[:, None, :]
    return affine


def crop_affine(region: Region) -> AffineBatch:
    """(B, 4, 4) affine of the centred crop."""
    low = vector(low_of(region), region.affine).expand(len(region.affine), 3)
    return affine_at(region, low, torch.ones_like(low))


def crop_valid(region: Region) -> MaskBatch:
    """(B, *size) voxels of the centred crop that lie inside the volume."""
    if alone(region.inside):
        bounds = region.inside[0] - vector(low_of(region), region.inside)[:, None]
        box = [slice(max(0, low), max(0, high)) for low, high in bounds.tolist()]
        valid = room(region.inside, 1, *region.size_vox, dtype=torch.bool).zero_()
        valid[0][tuple(box)] = True
        return valid
    places = []
    for axis, (low, size) in enumerate(zip(low_of(region), region.size_vox, strict=True)):
        index = torch.arange(low, low + size, device=region.inside.device)
        places.append(along(index[None], axis))
    return inside_places(region.inside, places)


def vector(values: Sequence[float], like: Tensor) -> Tensor:
    """(n,) of another tensor's type, made on its device: a copy from the host would wait for the GPU."""
    if on_host(like):
        return torch.tensor(values, dtype=like.dtype)
    return torch.cat([torch.full((1,), value, dtype=like.dtype, device=like.device) for value in values])


def along(values: Tensor, axis: int) -> Tensor:
    """(B, n) -> (B, n, 1, 1), (B, 1, n, 1) or (B, 1, 1, n)."""
    return values.reshape(len(values), *(-1 if a == axis else 1 for a in range(3)))


def inside_places(inside: Bounds, places: list[Tensor]) -> MaskBatch:
    """Where the voxel nearest to a place is one of the volume's: three indices that broadcast to (B, D, H, W)."""
    first, second, third = (within(place, inside[:, axis]) for axis, place in enumerate(places))
    return first & second & third


def within(place: Tensor, bounds: Tensor) -> Tensor:
    """Whether indices (B, D, H, W) along an axis round to one of the range of each sample (B, 2)."""
    low, high = bounds[:, :, None, None, None].unbind(1)
    return (place >= low - 0.5) & (place < high - 0.5)


def share(mask: MaskBatch) -> Tensor:
    """(B,) share of a mask's voxels that are set."""
    if alone(mask):  # NumPy counts bits by the vector
        return torch.tensor([np.count_nonzero(mask.numpy())], dtype=torch.float32) / mask[0].numel()
    return mask.flatten(1).sum(1, dtype=torch.float32) / mask[0].numel()
