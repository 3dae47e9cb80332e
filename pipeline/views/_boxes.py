"""Boxes that are painted over or kept: in-painting and out-painting (Zhou et al. 2019, Models Genesis)."""

import torch
from torch import Tensor

from pipeline.keys import fold, integers, on_host, uniform
from pipeline.shapes import MaskBatch
from pipeline.views._crop import vector
from pipeline.views._walk import room

BORDER_VOX = 3

Triple = tuple[int, int, int]
Box = tuple[Triple, Triple]  # low, high


def draw_boxes(
    keys: Tensor, size_vox: tuple[int, int, int], side: tuple[float, float], max_boxes: int, more: float, always: int
) -> dict[str, Tensor]:
    """low and high (B, max_boxes, 3) int64 of boxes, empty ones past a sample's number.

    Sides are uniform between two shares of the crop's, at least 1; boxes stay ``BORDER_VOX`` off the border where there is room. After
    the first ``always`` boxes each further one comes with probability ``more``, until the first that does not.
    """
    shortest = [max(1, int(n * side[0])) for n in size_vox]
    size, smallest = vector(size_vox, keys), vector(shortest, keys)
    largest = vector([max(least, int(n * side[1])) for least, n in zip(shortest, size_vox, strict=True)], keys)
    sides = integers(fold(keys, "sides"), smallest, largest + 1, max_boxes, 3)
    border = ((size - sides) // 2).clamp(0, BORDER_VOX)
    low = integers(fold(keys, "lows"), border, size - sides - border + 1, max_boxes, 3)
    there = uniform(fold(keys, "number"), max_boxes) < more
    there[:, :always] = True
    there = there.to(torch.int64).cumprod(1)[:, :, None]
    return {"low": low, "high": low + sides * there}


def boxes_of(low: Tensor, high: Tensor) -> list[Box]:
    """The bounds (n, 3) of one sample on a CPU as numbers, without boxes that are empty."""
    pairs = zip(low.tolist(), high.tolist(), strict=True)
    return [(tuple(a), tuple(b)) for a, b in pairs if all(last > first for first, last in zip(a, b, strict=True))]


def box_mask(low: Tensor, high: Tensor, size_vox: tuple[int, int, int]) -> MaskBatch:
    """(B, n, 3) bounds -> (B, D, H, W) bool: voxels in any of the boxes."""
    if on_host(low):
        mask = room(low, len(low), *size_vox, dtype=torch.bool).zero_()
        for painted, *bounds in zip(mask.numpy(), low, high, strict=True):
            for box in boxes_of(*bounds):
                painted[tuple(map(slice, *box))] = True
        return mask
    mask = torch.zeros(len(low), *size_vox, dtype=torch.bool, device=low.device)
    for box in range(low.shape[1]):
        first, second, third = (_between(low[:, box, axis], high[:, box, axis], size_vox[axis]) for axis in range(3))
        mask |= first[:, :, None, None] & second[:, None, :, None] & third[:, None, None, :]
    return mask


def _between(low: Tensor, high: Tensor, size: int) -> Tensor:
    position = torch.arange(size, device=low.device)
    return (position >= low[:, None]) & (position < high[:, None])
