"""What of a run lies in a checkpoint, and how a run takes it up again: all that its further steps and journal depend on.

Learner (network, teacher, heads, queues, centres), optimiser, the losses of the spike rule, watchers, counts of the rules, metrics, the
best evaluation, and the journal's length. Samples, views and the torch generator are functions of (seed, step), so they need no state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.training.checkpoints.checkpoint import Loaded, load_optimiser, optimiser_tensors
from pipeline.training.checkpoints.made import compare, made
from pipeline.training.distributed.sharded import settled, settled_optimiser, whole

if TYPE_CHECKING:
    from pipeline.training.loop import Loop


def save(loop: Loop, step: int) -> None:
    """All ranks call it, rank 0 writes. A full disk costs this checkpoint and nothing else."""
    tensors = whole(_tensors(loop), loop.ranks.leads)
    watchers = {type(watcher).__name__: watcher.state() for watcher in loop.watchers}
    state = {"journal": loop.journal.position(), "metrics": loop.metrics, "best": loop.best, "watchers": watchers,
             "rules": loop.rules.state(), "spikes_seen": loop.spikes.seen}  # fmt: skip
    if loop.ranks.leads:
        for check in loop.may_write:
            check()
        try:
            loop.checkpoints.save(step, tensors, state, made(loop.who, loop.training, loop.ranks))
        except OSError as error:
            loop.journal.write("note", step=step, text=f"no checkpoint: {error.strerror}; the one before it stays")
    loop.ranks.barrier()


def restore(loop: Loop) -> int:
    """The step to go on with: from the newest checkpoint that proves itself, or 0, which becomes the first checkpoint."""
    found: list[Loaded] = []

    def choose() -> dict[str, Any] | None:
        loaded = loop.checkpoints.load()
        if loaded is None:
            return None
        found.append(loaded)
        return {"step": loaded.step, "notes": [*loaded.complaints, *compare(loop.checkpoints.folder, loaded.made, _made(loop))]}

    chosen = loop.ranks.first(choose)
    if chosen is None:
        loop.journal.truncate(0)
        loop.journal.write("start", **loop.who)
        save(loop, 0)
        return 0
    loaded = found[0] if found else loop.checkpoints.read(chosen["step"])
    loop.journal.truncate(loaded.state["journal"])
    _load(loop, loaded)
    for note in chosen["notes"]:
        loop.journal.write("note", step=loaded.step, text=note)
    return loaded.step


def go_back(loop: Loop, step: int) -> int:
    """After ``step`` failed: the last checkpoint's state, and samples that the run has never seen. The step to go on with."""
    skipped, rollbacks = loop.rules.skipped, loop.rules.rollbacks + 1
    first = restore(loop)
    loop.rules.rollbacks, loop.rules.in_a_row, loop.rules.skipped = rollbacks, 0, []
    text = f"went back from step {step} to {first}: {len(skipped)} steps in a row were not finite"
    loop.journal.write("note", step=first, text=text, first_sample=loop.rules.first_sample, skipped=skipped)
    return first


def _made(loop: Loop) -> dict[str, Any]:
    return made(loop.who, loop.training, loop.ranks)


def _tensors(loop: Loop) -> dict[str, Tensor]:
    learner = {f"learner.{name}": value for name, value in loop.learner.state_dict().items()}
    watchers = {f"{type(watcher).__name__}.{name}": value for watcher in loop.watchers for name, value in watcher.tensors().items()}
    return {**learner, **optimiser_tensors(loop.optimiser), **watchers, "spikes": loop.spikes.losses}


def _load(loop: Loop, loaded: Loaded) -> None:
    tensors, state = loaded.tensors, loaded.state
    learner = {name.removeprefix("learner."): value for name, value in tensors.items() if name.startswith("learner.")}
    loop.learner.load_state_dict(settled(loop.learner.state_dict(), learner))
    load_optimiser(loop.optimiser, settled_optimiser(loop.optimiser, tensors))
    with torch.no_grad():
        loop.spikes.losses.copy_(tensors["spikes"])
    loop.spikes.seen = state["spikes_seen"]
    loop.rules.load_state(state["rules"])
    loop.metrics, loop.best = state["metrics"], state["best"]
    for watcher in loop.watchers:
        own = f"{type(watcher).__name__}."
        watcher.load_tensors({name.removeprefix(own): value for name, value in tensors.items() if name.startswith(own)})
        watcher.load_state(state["watchers"].get(type(watcher).__name__, {}))
