"""The learner: encodes what its objectives ask for, each view once, and owns backward.

Objectives see detached leaves of the features, so a second objective on a view costs no second encoding, and each one's
gradient with respect to the features is known by itself.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.keys import fold, initialise, key
from pipeline.plugins import load, only, settings
from pipeline.recipe import Recipe
from pipeline.step import Context, Features, Loss, Network, Objective, Region, Step, View, ViewBatch
from pipeline.training.encoder import load_weights


class Learner(nn.Module):
    """Network, objectives and views of one recipe, with initial weights that depend on (seed, layer's name) only."""

    def __init__(self, recipe: Recipe, context: Context) -> None:
        super().__init__()
        self.seed, self.precision = context.seed, recipe.training.precision
        self.network: Network = build("networks", recipe.network, context)
        context = replace(context, widths=self.network.widths, geometry=self.network.geometry)
        self.views: dict[str, View] = {name: build("views", mapping, context) for name, mapping in recipe.views.items()}
        objectives = {name: build("objectives", {name: values}, context) for name, values in recipe.objectives.items()}
        self.weights = {name: float(values["weight"]) for name, values in recipe.objectives.items()}
        self.objectives = nn.ModuleDict(objectives)
        initialise(self.network, key(self.seed, "network"))
        for name, objective in objectives.items():
            initialise(objective, key(self.seed, "objective", name))
            for own, averaged in objective.pairs():
                averaged.load_state_dict(own.state_dict())
        self.wants = {of: _union(objectives.values(), of) for of in ("student", "teacher")}
        self.teacher = copy.deepcopy(self.network).requires_grad_(False) if self.wants["teacher"] else None

    def start_from(self, path: Path) -> None:
        """Network weights of another run; the teacher starts there too. Objectives keep their own heads."""
        load_weights(self.network, path)
        if self.teacher is not None:
            self.teacher.load_state_dict(self.network.state_dict())

    def region_vox(self) -> tuple[int, ...]:
        """What all views need together around the centre of a crop."""
        return tuple(max(view.extent_vox()[axis] for view in self.views.values()) for axis in range(3))

    def look(self, region: Region) -> dict[str, tuple[ViewBatch, ...]]:
        """Every view that somebody asked for, with keys of its own: (seed, sample, name of the view)."""
        keys = fold(region.ids.sample ^ key(self.seed, "sample"), "views")
        wanted = {view for wants in self.wants.values() for view in wants}
        with torch.no_grad():
            return {n: v.apply(region, v.draw(fold(keys, n), region)) for n, v in self.views.items() if n in wanted}

    def losses(self, region: Region, **when: Any) -> tuple[dict[str, Loss], Step, list[tuple[Tensor, Tensor]]]:
        """Each objective's loss; the step it read; (feature, leaf) pairs through which backward goes on."""
        views = self.look(region)
        pairs: list[tuple[Tensor, Tensor]] = []
        student = {name: self._encode(self.network, views[name], want, pairs) for name, want in self.wants["student"].items()}
        with torch.no_grad():
            teacher = {name: self._encode(self.teacher, views[name], want, None) for name, want in self.wants["teacher"].items()}
        step = Step(
            views=views, student=student, teacher=teacher, ids=region.ids, places=region.places, body=region.body,
            keys=region.ids.sample, training=self.training, **when,
        )  # fmt: skip
        return {name: objective(step) for name, objective in self.objectives.items()}, step, pairs

    def backward(self, region: Region, **when: Any) -> tuple[dict[str, Loss], Step]:
        """Losses, and gradients on every parameter."""
        losses, step, pairs = self.losses(region, **when)
        total = sum(self.weights[name] * loss.value for name, loss in losses.items())
        total.backward()
        reached = [(feature, leaf.grad) for feature, leaf in pairs if leaf.grad is not None]
        torch.autograd.backward([feature for feature, _ in reached], [gradient for _, gradient in reached])
        return losses, step

    @torch.no_grad()
    def update(self, step: Step) -> None:
        """After an accepted optimiser step: queues and banks, then the teacher follows."""
        for objective in self.objectives.values():
            objective.update(step)
        for objective in self.objectives.values():
            momentum = objective.momentum(step.progress)
            if momentum is None:
                continue
            followed = [(self.network, self.teacher)] if self.teacher is not None else []
            for own, averaged in (*followed, *objective.pairs()):
                follow(own, averaged, momentum)

    @torch.no_grad()
    def epoch(self, epoch: int) -> None:
        """At an epoch's beginning, on all ranks: what objectives do once an epoch, such as k-means, with a seed of its own."""
        for name, objective in self.objectives.items():
            seed = key(self.seed, "epoch", name, epoch)
            torch.manual_seed(seed)
            objective.epoch(epoch, seed)

    def _encode(self, network: Any, views: tuple[ViewBatch, ...], want: frozenset, pairs: list | None) -> tuple[Features, ...]:
        found = []
        for view in views:
            bf16 = self.precision == "bf16"
            with torch.autocast(view.voxels.device.type, dtype=torch.bfloat16, enabled=bf16):
                features = network(view.voxels, view.hidden, view.hide, want)
            found.append(features if pairs is None or not torch.is_grad_enabled() else _leaves(features, pairs))
        return tuple(found)


def build(folder: str, mapping: Mapping[str, Any], context: Context) -> Any:
    """The one plug-in that a mapping such as ``{unet: {...}}`` names."""
    name, values = only(dict(mapping), folder)
    return load(folder, name)(settings(folder, name, values), context)


def follow(own: nn.Module, averaged: nn.Module, momentum: float) -> None:
    """averaged <- momentum * averaged + (1 - momentum) * own; buffers are copied."""
    for target, source in zip(averaged.parameters(), own.parameters(), strict=True):
        target.lerp_(source, 1.0 - momentum)
    for target, source in zip(averaged.buffers(), own.buffers(), strict=True):
        target.copy_(source)


def _union(objectives: Any, of: str) -> dict[str, frozenset]:
    wants: dict[str, frozenset] = {}
    for objective in objectives:
        assert isinstance(objective, Objective)
        for ask in objective.asks():
            if ask.of == of:
                wants[ask.view] = wants.get(ask.view, frozenset()) | ask.want
    if of == "student":  # what watchers look at in every run; nobody descends it unless it was asked for, so it changes nothing
        wants = {view: want | {"pooled"} for view, want in wants.items()}
    return wants


def _leaves(features: Features, pairs: list[tuple[Tensor, Tensor]]) -> Features:
    def leaf(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or not tensor.requires_grad:
            return tensor
        cut = tensor.detach().requires_grad_()
        pairs.append((tensor, cut))
        return cut

    return Features(
        pooled=leaf(features.pooled), tokens=leaf(features.tokens), dense=leaf(features.dense),
        levels=tuple(leaf(t) for t in features.levels), blocks=tuple(leaf(t) for t in features.blocks),
    )  # fmt: skip
