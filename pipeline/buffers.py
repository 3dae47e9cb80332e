"""Host memory that is used again and again: fresh memory is faulted in page by page, which costs as much as filling it.

A buffer comes back when nobody holds a tensor of it any more, so that whoever keeps a tensor keeps its memory whole.
"""

from __future__ import annotations

import ctypes
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


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of <malloc.h>


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


def keep_freed_memory() -> None:
    """Lets glibc's allocator use freed memory again, of any size, where no GPU computes. By default it gives large tensors back to the
    system, which faults the next one in page by page: a tenth of a training step. Without glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or torch.cuda.is_available():
        return
    for bytes_kept in (1 << 25, 1 << 30):  # releases before 2.35 refuse the second
        mallopt(_MMAP_THRESHOLD, bytes_kept)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_TOP_PAD, 1 << 26)


def give_back_freed_memory() -> None:
    """What is freed and kept goes back to the system, so that the memory of what comes next can be measured."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
