"""A probe of the frozen encoder every so many steps, and the encoder that it preferred, kept beside the last one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.step import Loss, Network, Step
from pipeline.training.distributed.sharded import is_sharded
from pipeline.training.watch import Watcher

if TYPE_CHECKING:
    from pipeline.training.loop import Loop

BEST = "best"


class Probe(Watcher):
    """``score(network)`` says how good the frozen encoder is, larger is better; ``keep(folder, network, step, score)`` writes it;
    all ranks call it, for each may hold a part of the weights, and those that write nothing with None. The score is rank 0's: which
    encoder is the best, all must agree.

    The best of a run stands in ``<run>/best``. It replaces the one before by a rename; what a kill left, ``put_back`` tidies up.
    """

    def __init__(self, score: Callable[[Network], float], keep: Callable[[Path | None, Network, int, float], None], folder: Path) -> None:
        self.score, self.keep, self.folder = score, keep, folder
        self.best: float | None = None
        self.best_step = 0
        self.last: float | None = None

    def stepped(self, loop: Loop, done: int, step: Step, losses: Mapping[str, Loss]) -> None:
        if not loop.due(loop.training.probe_every, done):
            return
        network, mode = loop.learner.network, loop.learner.training
        network.eval()
        try:
            with torch.no_grad():
                self.last = score = self._score(loop, network)
        finally:
            network.train(mode)
        if self.best is None or score > self.best:
            self.best, self.best_step = score, done
            if loop.ranks.leads:
                replace_folder(self.folder / BEST, lambda folder: self.keep(folder, network, done, score))
            else:
                self.keep(None, network, done, score)

    def _score(self, loop: Loop, network: Network) -> float:
        """The others wait for rank 0, but of a network in parts they compute with it."""
        if any(is_sharded(p) for p in network.parameters()):
            own = self.score(network)
            return loop.ranks.first(lambda: own)
        return loop.ranks.first(lambda: self.score(network))

    def journalled(self, loop: Loop, done: int) -> Mapping[str, float]:
        """The probe's score since the line before, and the best so far."""
        if self.last is None or self.best is None:
            return {}
        found = {"health/probe": self.last, "health/probe_best": self.best, "health/probe_best_step": float(self.best_step)}
        self.last = None
        return found

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "last": self.last}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step, self.last = state.get("best"), state.get("best_step", 0), state.get("last")


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes a folder under another name and puts it in the place of the old one; at every moment one of the two is whole."""
    new, old = folder.with_suffix(".new"), folder.with_suffix(".old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    write(new)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def put_back(folder: Path) -> None:
    """After a kill: the old folder returns if the new one had not taken its place; what is half written goes."""
    new, old = folder.with_suffix(".new"), folder.with_suffix(".old")
    if old.exists() and not folder.exists():
        os.rename(old, folder)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
