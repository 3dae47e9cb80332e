"""A step's figures, added up over its micro-batches: losses, metrics, and how the objectives pull on the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.step import Loss
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.micro import Place, products
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

    def pulled(self, pulls: Mapping[str, Mapping[Place, Tensor]]) -> None:
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
        """Values and terms added up, metrics as means over what they count, points as their spread."""
        alone = ranks.world == 1 and all(len(parts) == 1 for parts in self.found.values())
        sums: dict[tuple[str, str], Tensor] = {}
        for name, (first, *rest) in self.found.items():
            if not alone:
                sums |= {(name, metric): sum((_weighed(one, metric) for one in rest), _weighed(first, metric)) for metric in first.metrics}
            sums |= {
                (name, figure): sum((_moments(one.points[figure]) for one in rest), _moments(first.points[figure]))
                for figure in first.points
            }
        if sums:
            totals = ranks.total(torch.cat(list(sums.values()))).split([len(one) for one in sums.values()])
            sums = dict(zip(sums, totals, strict=True))
        found: dict[str, dict[str, Tensor]] = {name: dict(parts[0].metrics) for name, parts in self.found.items()}
        for (name, figure), total in sums.items():
            found[name][figure] = _spread(total) if figure in self.found[name][0].points else _mean(total)
        return {name: self._sum(name, found[name]) for name in self.names}

    def _sum(self, name: str, metrics: Mapping[str, Tensor]) -> Loss:
        first, *rest = self.found[name]
        if not rest:
            return replace(first, metrics=metrics)
        terms = {term: sum(loss.terms[term].detach() for loss in self.found[name]) for term in first.terms}
        return Loss(sum(loss.value.detach() for loss in self.found[name]), terms, metrics)


def _weighed(loss: Loss, metric: str) -> Tensor:
    """(2,) float64: the metric times what it counts, and what it counts; parts without a count weigh alike."""
    value = loss.metrics[metric].detach().double()
    count = loss.counts[metric].double() if metric in loss.counts else torch.ones_like(value)
    return torch.stack([value * count, count])


def _mean(weighed: Tensor) -> Tensor:
    return weighed[0] / weighed[1].clamp(min=1e-12)


def _moments(points: Tensor) -> Tensor:
    """(N, D) -> (1 + 2 D,) float64: their number, sum and sum of squares."""
    points = points.double()
    return torch.cat([points.new_full((1,), len(points)), points.sum(0), points.square().sum(0)])


def _spread(moments: Tensor) -> Tensor:
    """Standard deviation over the points, its mean over the dimensions, times root D: of points on a sphere near 1 where they are spread
    out evenly, near 0 where they have collapsed."""
    number, (total, squares) = moments[0], moments[1:].reshape(2, -1)
    variance = (squares / number - (total / number).square()).clamp(min=0)
    return (variance.sqrt().mean() * total.numel() ** 0.5).float()
