"""Non-linear intensity maps: cubic Bezier curves through (0, 0) and (1, 1) (Zhou et al. 2019, Models Genesis).

With both control points in the unit square, x(t) and y(t) are monotone, so a curve is a function of x and fits in a table. An inverting map
runs y backwards: x(t) -> y(1 - t).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.shapes import VoxelsBatch
from pipeline.views._walk import SLAB_VOX, alone, room

NUM_LEVELS = 1024
NUM_POINTS = 512

Curves = Float[Tensor, "B C L"]


def curves(control: Float[Tensor, "B C 4"], invert: Bool[Tensor, "B C"]) -> Curves:
    """Tables (B, C, NUM_LEVELS + 2) of y at x = l / NUM_LEVELS; control holds x1, y1, x2, y2 in [0, 1]. One entry pads the end."""
    device = control.device
    t = torch.linspace(0.0, 1.0, NUM_POINTS, device=device)
    x1, y1, x2, y2 = control[..., None].unbind(2)
    first, second, last = 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3
    x = (first * x1 + second * x2 + last).cummax(-1).values
    y = first * y1 + second * y2 + last
    y = torch.where(invert[..., None], y.flip(-1), y)
    level = (torch.arange(NUM_LEVELS + 2, device=device) / NUM_LEVELS).clamp(max=1.0).expand(*x.shape[:2], -1).contiguous()
    after = torch.searchsorted(x.contiguous(), level, right=True).clamp(1, NUM_POINTS - 1)
    x_low, x_high = x.gather(2, after - 1), x.gather(2, after)
    y_low, y_high = y.gather(2, after - 1), y.gather(2, after)
    part = ((level - x_low) / (x_high - x_low).clamp(min=1e-12)).clamp(0.0, 1.0)
    return torch.lerp(y_low, y_high, part).clamp(0.0, 1.0)


def bend(voxels: VoxelsBatch, table: Curves) -> VoxelsBatch:
    """Voxels in [0, 1] through each channel's own table, linear between its entries."""
    bent = room(voxels, *voxels.shape)
    if alone(voxels):
        for values, levels, out in zip(voxels[0], table[0], bent[0], strict=True):
            _bend_one(values, levels, out)
        return bent
    position = voxels * NUM_LEVELS
    index = position.to(torch.int32)
    part = position.frac_()
    rows = table.shape[0] * table.shape[1]
    if rows > 1:
        row = torch.arange(rows, device=table.device, dtype=torch.int32) * table.shape[2]
        index += row.reshape(*table.shape[:2], 1, 1, 1)
    index, flat = index.flatten(), table.reshape(-1)
    low, high = (values.index_select(0, index).reshape(voxels.shape) for values in (flat[:-1], flat[1:]))
    return torch.lerp(low, high, part, out=bent)


def _bend_one(values: Tensor, levels: Tensor, bent: Tensor) -> None:
    """(D, H, W) of one channel on a CPU through its levels, over scratch that stays in the caches."""
    values, bent = values.flatten(), bent.flatten()
    scratch, indices = room(values, 2, min(SLAB_VOX, len(values))), room(values, min(SLAB_VOX, len(values)), dtype=torch.int32)
    for first in range(0, len(values), SLAB_VOX):
        given, out = values[first : first + SLAB_VOX], bent[first : first + SLAB_VOX]
        part, high = scratch[:, : len(given)]
        index = indices[: len(given)].copy_(torch.mul(given, NUM_LEVELS, out=part))
        torch.index_select(levels[:-1], 0, index, out=out)
        torch.index_select(levels[1:], 0, index, out=high)
        torch.lerp(out, high, part.frac_(), out=out)
