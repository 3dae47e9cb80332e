"""The factor that keeps float16 gradients above zero (Micikevicius et al. 2018, "Mixed precision training", section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.training.distributed.ranks import Ranks
from pipeline.training.distributed.sharded import local

START, GROWTH, BACKOFF, INTERVAL = 65_536.0, 2.0, 0.5, 2000  # those of torch.amp.GradScaler


class LossScale(nn.Module):
    """torch.amp.GradScaler's rule without its waits for the device; its state is two buffers, so that a checkpoint holds it.

    A step with a gradient that is not finite halves the factor, 2000 good ones in a row double it. Who skips that step is the loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(START))
        self.register_buffer("good", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
        """Divides all gradients, means over the ranks already, by the factor, and moves it: the same way on every rank."""
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        torch._foreach_div_(gradients, self.factor)
        self.move(ranks.highest((~finite(gradients)).float()) == 0)

    def move(self, fine: Tensor) -> None:
        """``fine``: 0-d bool, whether the step's gradients were finite."""
        good = torch.where(fine, self.good + 1, 0)
        grown = torch.where(good >= INTERVAL, self.factor * GROWTH, self.factor)
        self.factor.copy_(torch.where(fine, grown, self.factor * BACKOFF))
        self.good.copy_(torch.where(good >= INTERVAL, 0, good))


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """0-d bool on the device: whether no value is infinite or no number."""
    return torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()
