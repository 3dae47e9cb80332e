"""Host memory that is used again and again: fresh memory is faulted in page by page, which costs as much as filling it.

A buffer comes back when nobody holds a tensor of it any more, so that whoever keeps a tensor keeps its memory whole.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_NUMPY = {
    torch.bool: np.bool_,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.float64: np.float64,
}


class Buffers:
    """Tensors on the host, in memory of tensors that are gone. Safe from several threads."""

    def __init__(self) -> None:
        self.free: dict[int, list[Tensor]] = {}  # by bytes

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of any content that nobody else holds."""
        size = math.prod(shape) * dtype.itemsize
        free = self.free.setdefault(size, [])
        try:
            own = free.pop()
        except IndexError:
            own = torch.empty(size, dtype=torch.uint8)
        lent = own.numpy().view(_NUMPY[dtype]).reshape(shape)  # every tensor made of it holds this very array
        weakref.finalize(lent, free.append, own).atexit = False
        return torch.from_numpy(lent)
