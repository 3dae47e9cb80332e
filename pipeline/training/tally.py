"""A step's figures, added up over its micro-batches: losses, metrics, and how the objectives pull on the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.step import Loss
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.micro import Path, products
from pipeline.training.scale import LossScale


class Tally:
    """Everything stays on the device, and nothing waits for it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.found: dict[str, list[Loss]] = {name: [] for name in names}
        self.gram: Tensor | None = None

    def add(self, name: str, loss: Loss) -> None:
        """An objective's loss of one micro-batch, already as its part of the whole."""
        self.found[name].append(loss)

    def pulled(self, pulls: Mapping[str, Mapping[Path, Tensor]]) -> None:
        """Gradients on the features of one micro-batch. Micro-batches share no feature, so their products add up to the batch's."""
        gram = products([pulls[name] for name in self.names])
        self.gram = gram if self.gram is None else self.gram + gram

    def losses(self, ranks: Ranks, scale: LossScale | None = None) -> dict[str, Loss]:
        """Each objective's loss, with ``gradient_norm`` and, for every other objective, ``cosine_<other>`` among its metrics.

        Metrics, norms and cosines are those of the batch of all ranks; values are this rank's, whose mean over the ranks is the batch's.
        The norms are those of the weighted losses.
        """
        losses = self._together(ranks)
        if self.gram is None:
            return losses
        gram = ranks.total(self.gram) / (ranks.world**2 * (1.0 if scale is None else scale.factor**2))
        norms = gram.diagonal().sqrt()
        cosines = gram / (norms[:, None] * norms[None]).clamp(min=1e-30)
        for number, (name, loss) in enumerate(losses.items()):
            others = {f"cosine_{other}": cosines[number, i] for i, other in enumerate(self.names) if i != number}
            losses[name] = replace(loss, metrics={**loss.metrics, "gradient_norm": norms[number], **others})
        return losses

    def _together(self, ranks: Ranks) -> dict[str, Loss]:
        """Values and terms added up, metrics as means over what they count."""
        names = [(name, metric) for name in self.names for metric in self.found[name][0].metrics]
        if (ranks.world == 1 and all(len(parts) == 1 for parts in self.found.values())) or not names:
            return {name: self._sum(name, self.found[name][0].metrics) for name in self.names}
        sums = torch.stack([torch.stack(_weighed(self.found[name], metric)).sum(0) for name, metric in names])
        top, bottom = ranks.total(sums).unbind(1)
        means = dict(zip(names, (top / bottom.clamp(min=1e-12)).unbind(), strict=True))
        return {name: self._sum(name, {m: means[name, m] for m in self.found[name][0].metrics}) for name in self.names}

    def _sum(self, name: str, metrics: Mapping[str, Tensor]) -> Loss:
        first, *rest = self.found[name]
        if not rest:
            return replace(first, metrics=metrics)
        terms = {term: sum(loss.terms[term].detach() for loss in self.found[name]) for term in first.terms}
        return Loss(sum(loss.value.detach() for loss in self.found[name]), terms, metrics)


def _weighed(parts: Sequence[Loss], metric: str) -> list[Tensor]:
    """(2,) float64 a part: the metric times what it counts, and what it counts; parts without a count weigh alike."""
    weighed = []
    for loss in parts:
        value = loss.metrics[metric].detach().double()
        count = loss.counts[metric].double() if metric in loss.counts else torch.ones_like(value)
        weighed.append(torch.stack([value * count, count]))
    return weighed
