"""Noise for every voxel from counter keys, a key for each slice: cheap, and the same for any batch."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from pipeline.keys import bits, fill_noise, noise, on_host
from pipeline.shapes import VoxelsBatch
from pipeline.views._walk import SLAB_VOX, room

_QUANTILES = 1 << 12


def uniform_noise(keys: Tensor, shape: tuple[int, int, int, int]) -> VoxelsBatch:
    """(B,) keys -> (B, C, D, H, W) float32 in [0, 1); ``shape`` is (C, D, H, W)."""
    channels, depth, *plane = shape
    if len(keys) > 1 or not on_host(keys):
        return noise(bits(keys, channels * depth).flatten(), *plane).reshape(len(keys), *shape)
    made = room(keys, 1, *shape, dtype=torch.float32)
    fill_with_noise(made[0], keys, (0, 0, 0), shape[1:])
    return made


def fill_with_noise(made: Tensor, one: Tensor, low: Sequence[int], high: Sequence[int]) -> None:
    """Writes into a box of a sample (C, D, H, W) on a CPU what ``uniform_noise`` of its one key (1,) gives there."""
    channels, depth, height, width = made.shape
    (a, b, c), (d, e, f) = low, high
    slices = bits(one, channels * depth).reshape(channels, depth)
    counter = torch.arange(height * width, dtype=torch.int32).reshape(height, width)[b:e, c:f].flatten()
    rows = max(1, SLAB_VOX // max(1, len(counter)))
    for channel in range(channels):
        for first in range(a, d, rows):
            last = min(d, first + rows)
            some = torch.empty(last - first, len(counter))
            fill_noise(some, slices[channel, first:last], counter)
            made[channel, first:last, b:e, c:f] = some.reshape(last - first, e - b, f - c)


def normal_noise(keys: Tensor, shape: tuple[int, int, int, int]) -> VoxelsBatch:
    """(B,) keys -> (B, C, D, H, W) standard normal, as 4096 equally likely values."""
    level = uniform_noise(keys, shape).mul_(_QUANTILES).to(torch.int32).flatten()
    return _quantiles(str(keys.device)).index_select(0, level).reshape(len(keys), *shape)


@cache
def _quantiles(device: str) -> Tensor:
    middle = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    return (torch.erfinv(2.0 * middle - 1.0) * 2.0**0.5).to(torch.float32).to(device)
