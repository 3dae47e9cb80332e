"""Samples of all ranks in one batch, for losses that couple samples."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(values: Tensor) -> Tensor:
    """(B, ...) of this rank -> (ranks * B, ...), in the order of the ranks, the same B everywhere; itself without ranks.

    Differentiable: every rank computes the loss of the whole batch, and the gradient of this rank's samples is summed over the
    ranks. Averaging the parameters' gradients over the ranks afterwards then gives the gradient of one process with all samples.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    return Gathered.apply(values.contiguous())


class Gathered(torch.autograd.Function):
    """torch.distributed's own all_gather has no backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
