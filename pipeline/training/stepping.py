"""One optimiser step, shared by pretraining and fine-tuning: clip, agree, then descend or skip.

On a GPU nothing here waits for the device: the optimiser is told by a tensor whether to descend (``found_inf`` of torch's fused AdamW), and
what the step wrote besides trained weights is put back by ``torch.where``. On a CPU a look at the flag costs nothing. Weights in parts
(FSDP2) have no fused update yet, so there the host waits for the flag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.training.distributed.ranks import Ranks
from pipeline.training.distributed.sharded import clip
from pipeline.training.faults.spikes import Spikes
from pipeline.training.optimiser import rate_factor, set_rate
from pipeline.training.scale import LossScale


@dataclass(frozen=True)
class Outcome:
    """What all ranks agree on, 0-d on the device: ``stop`` (exit code that a rank was asked for, or 0), ``finite``, ``spike``, ``good``
    (the step was taken), ``loss`` (the largest of the ranks'), ``norm`` of the gradient before clipping; and the learning rate."""

    stop: Tensor
    finite: Tensor
    spike: Tensor
    good: Tensor
    loss: Tensor
    norm: Tensor
    rate: float

    def packed(self) -> Tensor:
        """(6,) float32: stop, finite, spike, good, loss, norm."""
        return torch.stack([value.to(torch.float32) for value in (self.stop, self.finite, self.spike, self.good, self.loss, self.norm)])


class Stepper:
    """The steps of one run over ``trained`` parameters. ``kept``: tensors that a skipped step gives back as they were."""

    def __init__(
        self,
        trained: Sequence[nn.Parameter],
        optimiser: torch.optim.Optimizer,
        num_steps: int,
        warmup: float,
        clip: float,
        kept: Iterable[Tensor] = (),
        ranks: Ranks | None = None,
        spikes: Spikes | None = None,
    ) -> None:
        self.trained, self.optimiser, self.kept = list(trained), optimiser, list(kept)
        self.num_steps, self.warmup, self.clip = num_steps, warmup, clip
        self.ranks, self.spikes = ranks or Ranks(), spikes
        self.before: list[Tensor] = []

    def begin(self) -> None:
        """Before the forward pass."""
        self.before = [value.detach().clone() for value in self.kept]
        self.optimiser.zero_grad(set_to_none=True)

    def finish(self, step: int, loss: Tensor, stop: int = 0, update: Callable[[], None] = lambda: None) -> Outcome:
        """After backward: descends and calls ``update``, unless some rank's loss or gradient is not finite, or it is a spike to skip."""
        norm = clip(self.trained, self.clip)
        rate = set_rate(self.optimiser, rate_factor(step, self.num_steps, self.warmup))
        loss = loss.detach().to(torch.float32)
        bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
        told = torch.stack([torch.full_like(loss, float(stop)), bad.to(torch.float32), torch.nan_to_num(loss, 0.0, 0.0, 0.0)])
        stopped, bad, loss = self.ranks.highest(told).unbind()
        finite = bad == 0
        spike = self.spikes.found(loss, finite) if self.spikes else torch.zeros_like(finite)
        good = finite & ~spike if self.spikes and self.spikes.skip else finite
        self._descend(good, update)
        return Outcome(stopped, finite, spike, good, loss, norm, rate)

    @torch.no_grad()
    def _descend(self, good: Tensor, update: Callable[[], None]) -> None:
        if self.optimiser.defaults["fused"]:
            self.optimiser.found_inf = (~good).to(torch.float32)
            self.optimiser.step()
            update()
            for value, before in zip(self.kept, self.before, strict=True):
                value.copy_(torch.where(good, value, before))
        elif bool(good):
            self.optimiser.step()
            update()
        else:
            for value, before in zip(self.kept, self.before, strict=True):
                value.copy_(before)


def written(module: nn.Module) -> list[Tensor]:
    """What a step of pretraining writes besides trained weights, but for the factor of float16, which has to learn of a skip. On a GPU,
    where ``update`` runs before anybody knows of one, that is all that is not trained; on a CPU only what a forward pass writes."""
    if any(value.is_cuda for value in module.parameters()):
        apart = {id(value) for part in module.modules() if isinstance(part, LossScale) for value in part.buffers()}
        return [v for v in (*module.parameters(), *module.buffers()) if not v.requires_grad and id(v) not in apart]
    return statistics(module)


def statistics(module: nn.Module) -> list[Tensor]:
    """What a forward pass writes by itself: the running statistics of batch norm."""
    norms = (part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm))
    return [value for part in norms for value in part.buffers(recurse=False)]
