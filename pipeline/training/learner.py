"""The learner: encodes what its objectives ask for, each view once, and owns backward.

Objectives see detached leaves of the features, so a second objective on a view costs no second encoding, and each one's
gradient with respect to the features is known by itself.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.keys import fold, initialise, key
from pipeline.plugins import load, only, settings
from pipeline.recipe import Recipe
from pipeline.step import Context, Features, Loss, Network, Objective, Region, Step, View, ViewBatch
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.distributed.reducer import Reducer
from pipeline.training.distributed.sharded import local
from pipeline.training.encoder import load_weights
from pipeline.training.graphs import Replayed
from pipeline.training.micro import Place, Student, flat, leaves, merge, part, pull, slim, spans
from pipeline.training.scale import LossScale
from pipeline.training.tally import Tally

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner(nn.Module):
    """Network, objectives and views of one recipe, with initial weights that depend on (seed, layer's name) only."""

    def __init__(self, recipe: Recipe, context: Context, ranks: Ranks | None = None) -> None:
        super().__init__()
        self.seed, self.precision, self.ranks = context.seed, recipe.training.precision, ranks or Ranks()
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
        self.coupling = {name for name, objective in objectives.items() if objective.couples}
        self.wants["coupling"] = _union((objectives[name] for name in self.coupling), "student")
        self.scale = LossScale() if self.precision == "fp16" else None
        self.reducer: Reducer | None = None
        self.memory_format = torch.preserve_format
        self.told: Callable[[str], None] = lambda text: None  # hears what a person should know
        self._looked = Replayed(self._look, lambda text: self.told(text)) if recipe.training.graphs == "auto" else self._look

    def start_from(self, path: Path) -> None:
        """Network weights of another run; the teacher starts there too. Objectives keep their own heads."""
        load_weights(self.network, path)
        if self.teacher is not None:
            self.teacher.load_state_dict(self.network.state_dict())

    def region_vox(self) -> tuple[int, ...]:
        """What all views need together around the centre of a crop."""
        return tuple(max(view.extent_vox()[axis] for view in self.views.values()) for axis in range(3))

    def look(self, region: Region) -> dict[str, tuple[ViewBatch, ...]]:
        """Every view that somebody asked for, with keys of its own: (seed, sample, name of the view). Views read no places of words."""
        with torch.no_grad():
            return self._looked(replace(region, places=None))

    def _look(self, region: Region) -> dict[str, tuple[ViewBatch, ...]]:
        keys = fold(region.ids.sample ^ key(self.seed, "sample"), "views")
        wanted = {view for wants in self.wants.values() for view in wants}
        return {n: v.apply(region, v.draw(fold(keys, n), region)) for n, v in self.views.items() if n in wanted}

    def losses(self, region: Region, **when: Any) -> tuple[dict[str, Loss], Step]:
        """To look at: each objective's loss, whose mean over the ranks is that of their whole batch, and the step that it read."""
        step = self._shown([region], when)
        step = replace(step, student=self._student(step, self.wants["student"], 0))
        shares, tally = self.shares([step])[0], Tally(list(self.objectives))
        for name, objective in self.objectives.items():
            tally.add(name, scaled(objective(step), shares[name]))
        return tally.losses(self.ranks), step

    def backward(self, micro: Sequence[Region], **when: Any) -> tuple[dict[str, Loss], Step]:
        """Losses, and the gradients of the whole batch, of all micro-batches and ranks, on every parameter.

        One pass over the micro-batches. Where an objective couples samples, GradCache (Gao et al. 2021) goes over them twice: first
        without a graph, for all features that it reads; its gradient on them then joins the others' in the second pass. The metrics of
        each loss say how hard that objective pulls on the features (``gradient_norm``) and which way (``cosine_<other>``).
        """
        whole = self._shown(micro, when)
        rows = spans(len(whole.ids.sample), len(micro[0].ids.sample))
        parts = [part(whole, span) for span in rows]
        shares, tally, kept = self.shares(parts), Tally(list(self.objectives)), []
        early = self._couple(whole, parts, tally) if len(parts) > 1 and self.coupling else {}
        for number, one in enumerate(parts):
            features = self._student(one, self.wants["student"], number)
            one = replace(one, student=leaves(features))
            pulls = {name: part(gradients, rows[number]) for name, gradients in early.items()}
            pulls |= {n: self._pull(n, one, shares[number][n], tally) for n in self.objectives if n not in early}
            tally.pulled(pulls)
            kept.append(slim(one.student))
            self._through(flat(features), pulls, last=number == len(parts) - 1)
        if self.scale is not None:
            self.scale.unscale((p for p in self.parameters() if p.requires_grad), self.ranks)
        return tally.losses(self.ranks, self.scale), replace(whole, student=merge(kept))

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

    def _shown(self, micro: Sequence[Region], when: Mapping[str, Any]) -> Step:
        """A rank's whole share of a step, with all but the student's features."""
        views = merge([self.look(region) for region in micro])
        ids, places, body = (merge([getattr(region, name) for region in micro]) for name in ("ids", "places", "body"))
        step = Step(views=views, student={}, teacher={}, ids=ids, places=places, body=body, keys=ids.sample, training=self.training, **when)
        if not self.wants["teacher"]:
            return step
        rows = spans(len(ids.sample), len(micro[0].ids.sample))
        with torch.no_grad():
            found = [self._encoded(self.teacher, part(views, span), self.wants["teacher"]) for span in rows]
        return replace(step, teacher=merge(found))

    def _student(self, step: Step, wants: Mapping[str, frozenset], number: int) -> Student:
        """The student's features of a micro-batch. Dropout draws by (step, rank, micro-batch, view): the same in both passes."""
        return self._encoded(self.network, step.views, wants, (step.step, self.ranks.rank, number))

    def _encoded(self, network: Any, views: Mapping, wants: Mapping[str, frozenset], drawn_by: tuple[int, ...] | None = None) -> Student:
        found: dict[str, tuple[Features, ...]] = {}
        for name, want in wants.items():
            if drawn_by is not None and self.training:
                torch.manual_seed(key(self.seed, "dropout", name, *drawn_by))
            found[name] = tuple(self._encode(network, view, want) for view in views[name])
        return found

    def _encode(self, network: Any, view: ViewBatch, want: frozenset) -> Features:
        voxels = view.voxels.contiguous(memory_format=self.memory_format)
        lower = AUTOCAST.get(self.precision)
        with torch.autocast(voxels.device.type, dtype=lower or torch.bfloat16, enabled=lower is not None):
            return network(voxels, view.hidden, view.hide, want)

    def shares(self, parts: Sequence[Step]) -> list[dict[str, Tensor | None]]:
        """What each part's mean counts in the batch's, times the ranks, whose gradients are averaged; None for all of it.

        A plain mean over parts and ranks would be wrong where they hold unlike numbers of items, such as hidden voxels or words.
        """
        names = [name for name in self.objectives if name not in self.coupling]
        whole: list[dict[str, Tensor | None]] = [dict.fromkeys(self.objectives) for _ in parts]
        if not names or len(parts) * self.ranks.world == 1:
            return whole
        counts = torch.stack([torch.stack([self.objectives[name].count(one).double() for name in names]) for one in parts])
        portions = counts * self.ranks.world / self.ranks.total(counts.sum(0)).clamp(min=1e-12)
        return [shares | dict(zip(names, row.unbind(), strict=True)) for shares, row in zip(whole, portions, strict=True)]

    def _couple(self, whole: Step, parts: Sequence[Step], tally: Tally) -> dict[str, dict[Place, Tensor]]:
        """GradCache's first pass: losses of the objectives that couple samples, and their gradients on the features of the whole share."""
        with torch.no_grad():
            features = merge([self._student(one, self.wants["coupling"], number) for number, one in enumerate(parts)])
        step = replace(whole, student=leaves(features))
        return {name: self._pull(name, step, None, tally) for name in self.objectives if name in self.coupling}

    def _pull(self, name: str, step: Step, share: Tensor | None, tally: Tally) -> dict[Place, Tensor]:
        loss = scaled(self.objectives[name](step), share)
        tally.add(name, loss)
        value = loss.value * self.weights[name]
        return pull(value if self.scale is None else value * self.scale.factor, flat(step.student))

    def _through(self, features: Mapping[Place, Tensor], pulls: Mapping[str, Mapping[Place, Tensor]], last: bool) -> None:
        """Backward of the network with the sum of all pulls. Only the last of a step is averaged over the ranks, while it runs."""
        reached = [(value, [p[place] for p in pulls.values() if place in p]) for place, value in features.items() if value.requires_grad]
        reached = [(value, sum(gradients[1:], gradients[0])) for value, gradients in reached if gradients]
        if last and self.reducer is not None:
            self.reducer.arm()
        if hasattr(self.network, "set_requires_gradient_sync"):  # sharded: FSDP2 averages by hooks of its own
            self.network.set_requires_gradient_sync(last)
        torch.autograd.backward([value for value, _ in reached], [gradient for _, gradient in reached])
        if last and self.reducer is not None:
            self.reducer.finish()


def build(folder: str, mapping: Mapping[str, Any], context: Context) -> Any:
    """The one plug-in that a mapping such as ``{unet: {...}}`` names."""
    name, values = only(dict(mapping), folder)
    return load(folder, name)(settings(folder, name, values), context)


def follow(own: nn.Module, averaged: nn.Module, momentum: float) -> None:
    """averaged <- momentum * averaged + (1 - momentum) * own; buffers are copied."""
    for target, source in zip(averaged.parameters(), own.parameters(), strict=True):
        local(target).lerp_(local(source), 1.0 - momentum)
    for target, source in zip(averaged.buffers(), own.buffers(), strict=True):
        local(target).copy_(local(source))


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


def scaled(loss: Loss, share: Tensor | None) -> Loss:
    """A loss as its part of the mean over the batch."""
    if share is None:
        return loss
    terms = {name: term * share.to(term.dtype) for name, term in loss.terms.items()}
    return replace(loss, value=loss.value * share.to(loss.value.dtype), terms=terms)
