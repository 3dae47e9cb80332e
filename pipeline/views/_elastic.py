"""Elastic deformation: a smooth random displacement in mm, sampled linearly.

White noise on coarse knots, smoothed by one Gaussian matrix per axis (the smoothed noise field of Simard et al. 2003, separable).
Each row of a matrix has unit norm, so the field has the same variance everywhere, borders included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from pipeline.keys import normal, on_host
from pipeline.shapes import AffineBatch, MaskBatch, VoxelsBatch
from pipeline.views._crop import Bounds, along, within
from pipeline.views._walk import alone, room, rows_of, slabs, taker

Field = Float[Tensor, "B 3 D H W"]
Deformed = tuple[VoxelsBatch, Field, MaskBatch]
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
    margin_vox: tuple[int, int, int],
    inside: Bounds | None = None,
) -> Deformed:
    """Voxels with a margin -> crops (B, C, *size_vox), the displacement in RAS+ mm that each of their voxels was taken from, and whether
    it was taken from the index ranges ``inside`` of the voxels given (everywhere, without any).

    ``mean_mm`` is the mean length of the displacement, ``smooth_mm`` the deviation of the Gaussian (no less than the knots' distance, a
    twelfth of the side or 4 voxels). Along each axis the displacement is clamped to the margin, so that no place lies outside the voxels
    given. Knots of two axes displace along the first two only. Sampling is linear along the axes displaced.
    """
    columns = affine[:, :3, :3].to(torch.float32)
    spacing, axes = columns.norm(dim=1), knots.shape[1]
    knots_vox = knots * (mean_mm / _MEAN_LENGTH[axes] / spacing[:, :axes, None, None, None])
    deformation = _Deformation(voxels, knots_vox, columns, spacing, inside, size_vox, smooth_mm, margin_vox)
    if not on_host(voxels) or axes != 2:
        return deformation.anywhere()
    straight = deformation.straight()
    if straight.all():
        return deformation.in_planes()
    made = deformation.room()
    for chosen, sample in ((straight, _Deformation.in_planes), (~straight, _Deformation.anywhere)):
        rows, some = rows_of(chosen)
        for whole, part in zip(made, sample(deformation.of(some)) if len(rows) else (), strict=False):
            whole[rows] = part[: len(rows)]
    return made


@dataclass(frozen=True)
class _Deformation:
    """Voxels (B, C, D, H, W) with a margin, and what displaces them."""

    voxels: VoxelsBatch
    knots_vox: Tensor
    columns: Tensor
    spacing: Tensor
    inside: Bounds | None
    size_vox: tuple[int, int, int]
    smooth_mm: float
    margin_vox: tuple[int, int, int]

    def of(self, rows: Tensor) -> _Deformation:
        """The same of some samples."""
        tensors = {name: getattr(self, name)[rows] for name in ("voxels", "knots_vox", "columns", "spacing")}
        return replace(self, **tensors, inside=None if self.inside is None else self.inside[rows])

    def room(self) -> Deformed:
        """To be filled; ``valid`` is True."""
        batch, channels = self.voxels.shape[:2]
        valid = room(self.voxels, batch, *self.size_vox, dtype=torch.bool).fill_(True)
        return room(self.voxels, batch, channels, *self.size_vox), room(self.voxels, batch, 3, *self.size_vox), valid

    def straight(self) -> Tensor:
        """(B,) bool: whose axes are Right, Anterior and Superior."""
        return (self.columns == torch.diag_embed(self.spacing)).flatten(1).all(1)

    def smoothings(self) -> list[Tensor]:
        return [_smoothing(n, self.smooth_mm / self.spacing[:, axis]) for axis, n in enumerate(self.size_vox)]

    def anywhere(self) -> Deformed:
        """Any affine, any device."""
        (crops, warp_mm, valid), (first, second, third) = self.room(), self.smoothings()
        axes, straight = self.knots_vox.shape[1], on_host(self.columns) and bool(self.straight().all())
        coarse = self.knots_vox @ third.transpose(1, 2)[:, None, None]
        coarse = (second[:, None, None] @ coarse).flatten(3)
        for rows in slabs(self.voxels, self.size_vox):
            shift_vox = (first[:, None, rows] @ coarse).reshape(len(coarse), axes, -1, *self.size_vox[1:])
            for axis in range(axes):
                shift_vox[:, axis].clamp_(-self.margin_vox[axis], self.margin_vox[axis])
            if straight:  # the same numbers, in a fifth of the time
                warp_mm[:, axes:, rows] = 0.0
                torch.mul(shift_vox, self.spacing[:, :axes, None, None, None], out=warp_mm[:, :axes, rows])
            else:
                warp_mm[:, :, rows] = torch.einsum("bij,bjdhw->bidhw", self.columns[:, :, :axes], shift_vox)
            self._sample(shift_vox, rows.start, crops[:, :, rows], valid[:, rows])
        return crops, warp_mm, valid

    def _sample(self, shift_vox: Tensor, first: int, crops: VoxelsBatch, valid: MaskBatch) -> None:
        """Fills the slab of the crops that begins at slice ``first``; shift_vox (B, axes, d, H, W) is used up."""
        extent, size = self.voxels.shape[2:], shift_vox.shape[2:]
        index, parts = None, []
        for axis in range(3):
            begin = self.margin_vox[axis] + (first if axis == 0 else 0)
            # Floats added to floats, and places rounded down once: with operands of two types PyTorch leaves its vectorised loops.
            position = along(_count(begin, size[axis], shift_vox), axis)
            moved = axis < shift_vox.shape[1]
            if moved:
                position = shift_vox[:, axis].add_(position)
            if self.inside is not None:
                valid &= within(position, self.inside[:, axis])
            if moved:
                position.clamp_(max=(extent[axis] - 1) * _JUST_LESS)
            place = position.to(torch.int32)
            index = place if index is None else torch.add(place, index, alpha=extent[axis])
            if moved:
                parts.append(position.frac_()[:, None])
        strides = (extent[1] * extent[2], extent[2], 1)
        values = taker(self.voxels.flatten(2), index.expand(len(self.voxels), *size))
        _interpolated(values, strides[: len(parts)], parts, 0, crops)

    def in_planes(self) -> Deformed:
        """On a CPU, displaced along the first two axes only, which are Right and Anterior: every plane of the last axis is a picture, and
        PyTorch's sampler of pictures is vectorised.
        """
        made, (first, second, third) = self.room(), self.smoothings()
        # The displacement in voxels is field (B, 2, D, H, knots) times third (B, W, knots).
        field = second[:, None, None] @ (first[:, None] @ self.knots_vox.flatten(3)).unflatten(3, self.knots_vox.shape[3:])
        self._displace(field, third, *made[1:])
        self._sample_pictures(field, third, made[0])
        return made

    def _displace(self, field: Tensor, third: Tensor, warp_mm: Field, valid: MaskBatch) -> None:
        for axis, size in enumerate(self.size_vox):
            still = along(_count(self.margin_vox[axis], size, field), axis)
            if axis == 2:
                warp_mm[:, axis] = 0.0
                if self.inside is not None:
                    valid &= within(still, self.inside[:, axis])
                continue
            for part in slabs(self.voxels, self.size_vox):
                shift = warp_mm[:, axis, part]
                torch.bmm(field[:, axis, part].flatten(1, 2), third.transpose(1, 2), out=shift.flatten(1, 2))
                shift.clamp_(-self.margin_vox[axis], self.margin_vox[axis])
                if self.inside is not None:
                    valid[:, part] &= within(shift + (still[:, part] if axis == 0 else still), self.inside[:, axis])
                shift.mul_(self.spacing[:, axis, None, None, None])

    def _sample_pictures(self, field: Tensor, third: Tensor, crops: VoxelsBatch) -> None:
        (depth, height, width), batch = self.size_vox, len(crops)
        # The sampler counts from -1 to 1, and wants columns before rows.
        scales = [2.0 / (n - 1) for n in self.voxels.shape[2:4]]
        rows, columns = (
            torch.arange(m, m + n) * scale - 1.0 for n, m, scale in zip((depth, height), self.margin_vox, scales, strict=False)
        )
        still = torch.stack([columns.expand(depth, -1), rows[:, None].expand(-1, height)])
        planes = field.flip(1).flatten(1, 3).transpose(1, 2).contiguous()
        pictures = self.voxels.narrow(4, self.margin_vox[2], width).permute(0, 4, 1, 2, 3)
        for first in range(0, width, _PLANES):
            part = slice(first, min(first + _PLANES, width))
            place = room(field, batch, part.stop - first, 2, depth, height)
            torch.bmm(third[:, part], planes, out=place.flatten(2))
            for axis in (1, 0):
                shift = place[:, :, 1 - axis].clamp_(-self.margin_vox[axis], self.margin_vox[axis])
                torch.add(still[1 - axis], shift, alpha=scales[axis], out=shift)
            places = place.flatten(0, 1).permute(0, 2, 3, 1)
            found = grid_sample(pictures[:, part].flatten(0, 1), places, padding_mode="border", align_corners=True)
            crops[..., part].copy_(found.unflatten(0, (batch, -1)).permute(0, 2, 3, 4, 1))


def _count(begin: int, number: int, like: Tensor) -> Tensor:
    """(1, number) begin, begin + 1, ..."""
    return torch.arange(begin, begin + number, device=like.device, dtype=like.dtype)[None]


def _interpolated(
    values: Callable[[int], Tensor], strides: tuple[int, ...], parts: list[Tensor], offset: int, crops: VoxelsBatch | None = None
) -> VoxelsBatch:
    """``values(offset)`` (B, C, d, H, W) and, along each stride, a part of the way to the next; written to ``crops`` if given."""
    if not strides:
        return values(offset)
    low, high = (_interpolated(values, strides[1:], parts[1:], at) for at in (offset, offset + strides[0]))
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
