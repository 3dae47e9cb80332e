"""A volume slice by slice, in whatever order its voxels lie in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

AT_ONCE = 32


def planes(channel: np.ndarray) -> Iterator[np.ndarray]:
    """(D, H, W) -> its W axial pictures (H, D), each contiguous, from the lowest.

    Where slices do not lie one after the other in memory, so many are copied at once that no part of it is fetched for one voxel only.
    """
    step = 1 if abs(channel.strides[2]) >= max(map(abs, channel.strides)) else AT_ONCE
    for low in range(0, channel.shape[2], step):
        yield from np.ascontiguousarray(channel[:, :, low : low + step].transpose(2, 1, 0))
