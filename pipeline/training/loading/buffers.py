"""Host memory of batches: pinned where a GPU takes them, else used again and again.

Pinned memory is PyTorch's own to reuse: it waits until the copies that were queued from it are done.
"""

from typing import Any

import torch
from torch import Tensor

from pipeline.buffers import Buffers
from pipeline.nested import mapped


class Batches(Buffers):
    """int16 tensors on the host, pinned where there is a GPU to copy them to."""

    def take(self, shape: tuple[int, ...], dtype: torch.dtype = torch.int16) -> Tensor:
        if torch.cuda.is_available():
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        return super().take(shape, dtype)


def pinned(value: Any) -> Any:
    """A region whose small tensors are pinned as well, so that none of its copies waits for the GPU."""
    if not torch.cuda.is_available():
        return value
    return mapped(lambda tensor: tensor if tensor.is_pinned() else tensor.pin_memory(), value)
