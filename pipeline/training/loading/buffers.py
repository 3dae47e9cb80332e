"""Host memory of batches, used again and again: fresh memory of that size is faulted in page by page, which costs as much as reading.

A buffer comes back when nobody holds a tensor of it any more, so that whoever keeps a batch keeps it whole. Pinned memory
is PyTorch's own to reuse: it waits until the copies that were queued from it are done.
"""

import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.nested import mapped


class Buffers:
    """int16 tensors on the host, pinned where there is a GPU to copy them to."""

    def __init__(self) -> None:
        self.free: dict[tuple[int, ...], list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor of any content that nobody else holds."""
        if torch.cuda.is_available():
            return torch.empty(shape, dtype=torch.int16, pin_memory=True)
        free = self.free.setdefault(shape, [])
        try:
            own = free.pop()
        except IndexError:
            own = np.empty(shape, np.int16)
        lent = own.view()  # every tensor made of it holds this very array
        weakref.finalize(lent, free.append, own).atexit = False
        return torch.from_numpy(lent)


def pinned(value: Any) -> Any:
    """A region whose small tensors are pinned as well, so that none of its copies waits for the GPU."""
    if not torch.cuda.is_available():
        return value
    return mapped(lambda tensor: tensor if tensor.is_pinned() else tensor.pin_memory(), value)
