"""A step's figures, added up over its micro-batches: losses, metrics, and how the objectives pull on the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.step import Loss
from pipeline.training.micro import Path, products
from pipeline.training.ranks import Ranks
from pipeline.training.scale import LossScale


class Tally:
    """Everything stays on the device, and nothing waits for it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.found: dict[str, list[Loss]] = {name: [] for name in names}
        self.gram: Tensor | float = 0.0

    def add(self, name: str, loss: Loss) -> None:
        """An objective's loss of one micro-batch, already as its part of the whole."""
        self.found[name].append(loss)

    def pulled(self, pulls: Mapping[str, Mapping[Path, Tensor]]) -> None:
        """Gradients on the features of one micro-batch. Micro-batches share no feature, so their products add up to the batch's."""
        self.gram = self.gram + products([pulls[name] for name in self.names])

    def losses(self, ranks: Ranks, scale: LossScale | None) -> dict[str, Loss]:
        """Each objective's loss, with ``gradient_norm`` and, for every other objective, ``cosine_<other>`` among its metrics.

        Values add up; metrics are means over the micro-batches. Norms and cosines are those of the weighted losses, over all ranks.
        """
        gram = ranks.total(self.gram) / (ranks.world**2 * (1.0 if scale is None else scale.factor**2))
        norms = gram.diagonal().sqrt()
        cosines = gram / (norms[:, None] * norms[None]).clamp(min=1e-30)
        return {name: self._whole(name, number, norms, cosines) for number, name in enumerate(self.names)}

    def _whole(self, name: str, number: int, norms: Tensor, cosines: Tensor) -> Loss:
        parts = self.found[name]
        loss = parts[0]
        if len(parts) > 1:
            loss = Loss(
                sum(one.value.detach() for one in parts),
                {term: sum(one.terms[term].detach() for one in parts) for term in loss.terms},
                {metric: torch.stack([one.metrics[metric].float() for one in parts]).mean() for metric in loss.metrics},
            )
        others = {f"cosine_{other}": cosines[number, i] for i, other in enumerate(self.names) if i != number}
        return replace(loss, metrics={**loss.metrics, "gradient_norm": norms[number], **others})
