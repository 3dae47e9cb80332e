"""How hard each objective pulls at the encoder, and whether they pull against each other."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from pipeline.step import Features, Step
from pipeline.training.distributed.sharded import is_sharded
from pipeline.training.learner import Learner, scaled
from pipeline.training.micro import part

SHARE = 4  # one in so many samples is asked


def pulls(learner: Learner, step: Step, most: int | None = None) -> dict[str, Tensor]:
    """Norm of each weighted objective's gradient on the encoder's parameters, and the cosine of each two (Yu et al. 2020).

    On every fourth of the step's samples, at least two but not more than ``most`` a rank, and with the weights after the step: a second
    pass, since the one that trains has added the gradients up. In evaluation mode, so that no running statistic moves. Keys:
    ``<a>/gradient`` and ``<a>/<b>/conflict``, of the samples of all ranks together. Nothing of a network whose weights are divided among
    ranks.
    """
    ranks, batch = learner.ranks, len(step.ids.sample)
    count = min(batch, max(-(-2 // ranks.world), batch // SHARE), most or batch)
    few = part(step, slice(0, batch // count * count, batch // count))
    network, prefixes = learner.network, tuple(learner.network.encoder_keys())
    shared = [p for name, p in network.named_parameters() if name.startswith(prefixes) and p.requires_grad]
    if any(is_sharded(p) for p in shared):
        return {}
    mode = learner.training
    learner.eval()
    try:
        with torch.enable_grad():
            few = replace(few, student={name: _encoded(learner, few, name) for name in step.student})
            shares = learner.shares([few])[0]
            losses = {name: scaled(objective(few), shares[name]) for name, objective in learner.objectives.items()}
        found = {name: ranks.mean(_gradient(learner.weights[name] * loss.value, shared)) for name, loss in losses.items()}
    finally:
        learner.train(mode)
    figures = {f"{name}/gradient": gradient.norm() for name, gradient in found.items()}
    for (a, first), (b, second) in combinations(found.items(), 2):
        figures[f"{a}/{b}/conflict"] = torch.nn.functional.cosine_similarity(first, second, dim=0)
    return figures


def _encoded(learner: Learner, step: Step, view: str) -> tuple[Features, ...]:
    want, found = learner.wants["student"][view], []
    for batch in step.views[view]:
        with torch.autocast(batch.voxels.device.type, dtype=torch.bfloat16, enabled=learner.precision == "bf16"):
            found.append(learner.network(batch.voxels, batch.hidden, batch.hide, want))
    return tuple(found)


def _gradient(value: Tensor, parameters: list[Tensor]) -> Tensor:
    """(n,) float32, all of them one after the other; zeros where an objective does not reach."""
    if not value.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters), device=value.device)
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([torch.zeros_like(p).ravel() if g is None else g.ravel() for p, g in zip(parameters, found, strict=True)]).float()
