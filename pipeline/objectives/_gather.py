"""Samples of all ranks in one batch, for losses that couple samples."""

import torch.distributed
from torch import Tensor


def gather(values: Tensor) -> Tensor:
    """(B, ...) of this rank -> (ranks * B, ...), in the order of the ranks, the same B everywhere; itself without ranks.

    Differentiable: every rank computes the loss of the whole batch, and the gradient of this rank's samples is summed over the
    ranks. Averaging the parameters' gradients over the ranks afterwards then gives the gradient of one process with all samples.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()) or torch.distributed.get_world_size() == 1:
        return values
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(values.contiguous()))
