"""Noise for every voxel from counter keys, a key for each slice: cheap, and the same for any batch."""

from functools import cache

import torch
from torch import Tensor

from pipeline.keys import bits, noise
from pipeline.shapes import VoxelsBatch
from pipeline.views._walk import SLAB_VOX

_QUANTILES = 1 << 12


def uniform_noise(keys: Tensor, shape: tuple[int, int, int, int]) -> VoxelsBatch:
    """(B,) keys -> (B, C, D, H, W) float32 in [0, 1); ``shape`` is (C, D, H, W)."""
    channels, depth, *plane = shape
    slices = bits(keys, channels * depth).flatten()
    if keys.device.type != "cpu":
        return noise(slices, *plane).reshape(len(keys), *shape)
    made = torch.empty(len(slices), *plane)
    rows = max(1, SLAB_VOX // (plane[0] * plane[1]))
    for first in range(0, len(slices), rows):
        made[first : first + rows] = noise(slices[first : first + rows], *plane)
    return made.reshape(len(keys), *shape)


def normal_noise(keys: Tensor, shape: tuple[int, int, int, int]) -> VoxelsBatch:
    """(B,) keys -> (B, C, D, H, W) standard normal, as 4096 equally likely values."""
    level = uniform_noise(keys, shape).mul_(_QUANTILES).to(torch.int32).flatten()
    return _quantiles(str(keys.device)).index_select(0, level).reshape(len(keys), *shape)


@cache
def _quantiles(device: str) -> Tensor:
    middle = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    return (torch.erfinv(2.0 * middle - 1.0) * 2.0**0.5).to(torch.float32).to(device)
