"""The loop: steps, journal, evaluation, checkpoints. It knows a learner's ``backward`` and ``update`` and nothing of objectives.

A run that is killed and called again ends with the same bytes, since batches, views and learning rate are functions of the step and
the checkpoint holds everything else. "Same" is meant for one number of threads and one kind of processor.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.keys import key
from pipeline.progress import Progress
from pipeline.recipe import Training
from pipeline.step import Loss, to_device
from pipeline.tracking.journal import Journal, Silence
from pipeline.training import checkpoint
from pipeline.training.layout import place
from pipeline.training.learner import Learner
from pipeline.training.loader import Loader
from pipeline.training.micro import micro_batches
from pipeline.training.optimiser import make_optimiser, rate_factor, set_rate
from pipeline.training.ranks import Ranks, share
from pipeline.training.sharded import clip, settled, settled_optimiser, whole
from pipeline.training.signals import Stopped, watching
from pipeline.training.staging import on_device
from pipeline.training.watch import Watcher

MAX_SKIPS = 10
NUM_JUDGED = 4  # batches of held-out crops in an evaluation


class Loop:
    """One run of ``training.steps`` optimiser steps in a folder of its own."""

    def __init__(
        self,
        learner: Learner,
        loader: Loader,
        judge: Loader | None,
        training: Training,
        folder: Path,
        ranks: Ranks | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.ranks, self.watchers = ranks or Ranks(), tuple(watchers)
        self.device = self.ranks.device
        self.learner, self.loader, self.judge, self.training, self.folder = learner, loader, judge, training, folder
        place(learner, training, self.ranks)
        _, self.micro_batch = share(training.batch, training.micro_batch, self.ranks.world)
        trained = [p for p in learner.parameters() if p.requires_grad]
        self.optimiser = make_optimiser([(trained, 1.0)], training.learning_rate, training.weight_decay)
        self.trained = trained
        self.journal = Journal(folder / "journal.jsonl") if self.ranks.leads else Silence()
        self.checkpoints = folder / "checkpoints"
        self.skips, self.seconds = 0, {"wait": 0.0, "step": 0.0}
        self.metrics: dict[str, float] = {}

    def run(self, who: dict[str, Any]) -> dict[str, float]:
        """From the newest checkpoint, or from the start, to the end; returns the last evaluation's metrics."""
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        first = self._restore(who)
        num_steps = self.training.steps
        with watching() as stop, Progress(str(who.get("run", "pretrain")), num_steps, first, shown=self.ranks.leads) as progress:
            mark = time.monotonic()
            for step, region in enumerate(on_device(self.loader.batches(first, num_steps), self.device), start=first):
                self.seconds["wait"] += time.monotonic() - mark
                begun = time.monotonic()
                losses = self.step(step, region)
                self.seconds["step"] += time.monotonic() - begun
                done = step + 1
                if done % self.training.journal_every == 0 or done == num_steps:
                    self._write_train(done, losses)
                if done % self.training.evaluate_every == 0 or done == num_steps:
                    self.metrics = self.evaluate(done)
                if heard := self.ranks.agreed(stop.signal or 0):
                    stop.signal = heard  # a signal to one rank stops all, after the same step
                if done % self.training.checkpoint_every == 0 or done == num_steps or heard:
                    self._save(done)
                if heard:
                    raise Stopped(stop.exit_code)
                progress.advance(loss=losses["loss"])
                mark = time.monotonic()
        self.journal.write("end", step=num_steps, metrics=self.metrics)
        return self.metrics

    def step(self, step: int, region: Any) -> dict[str, float]:
        """One optimiser step; a loss or gradient that is not finite is skipped, ten in a row end the run."""
        torch.manual_seed(key(self.learner.seed, "torch", step))
        self.learner.train()
        self.optimiser.zero_grad(set_to_none=True)
        num_steps = self.training.steps
        losses, seen = self.learner.backward(micro_batches(region, self.micro_batch), progress=step / num_steps, step=step)
        norm = clip(self.trained, self.training.clip)
        rate = set_rate(self.optimiser, rate_factor(step, num_steps, self.training.warmup))
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
            self.learner.update(seen)
            self.skips = 0
            for watcher in self.watchers:
                watcher.stepped(self, step + 1, seen, losses)
        else:
            self._skip(step, region)
        return {**self._figures(losses), "gradient_norm": float(norm), "learning_rate": rate}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Mean of every loss and metric over held-out subjects; the same crops and views at every step."""
        if self.judge is None:
            return {}
        self.learner.eval()
        sums: dict[str, float] = {}
        for batch in range(NUM_JUDGED):
            region = to_device(self.judge.region(batch * self.judge.batch), self.device)
            losses, _, _ = self.learner.losses(region, progress=step / self.training.steps, step=step)
            for name, value in self._figures(losses).items():
                sums[name] = sums.get(name, 0.0) + value / NUM_JUDGED
        self.journal.write("evaluate", step=step, metrics=sums)
        return sums

    def _figures(self, losses: dict[str, Loss]) -> dict[str, float]:
        """One transfer from the device for all figures of a step: means over the ranks."""
        named: dict[str, Tensor] = {}
        for name, loss in losses.items():
            named[f"{name}/loss"] = loss.value
            named[f"{name}/weighted"] = loss.value * self.learner.weights[name]
            named |= {f"{name}/{term}": value for term, value in {**loss.terms, **loss.metrics}.items()}
        values = self.ranks.mean(torch.stack([value.detach().to(torch.float32) for value in named.values()])).tolist()
        figures = dict(zip(named, values, strict=True))
        figures["loss"] = sum(value for name, value in figures.items() if name.endswith("/weighted"))
        return figures

    def _write_train(self, done: int, losses: dict[str, float]) -> None:
        for watcher in self.watchers:
            losses = {**losses, **watcher.journalled(self, done)}
        self.journal.write(
            "train", step=done, metrics=losses, time_wait=round(self.seconds["wait"], 3), time_step=round(self.seconds["step"], 3)
        )

    def _skip(self, step: int, region: Any) -> None:
        self.skips += 1
        samples = region.ids.sample.tolist()
        self.journal.write("note", step=step, text="skipped: the gradient is not finite", samples=samples)
        if self.skips >= MAX_SKIPS:
            raise ValueError(
                f"{self.folder}: {MAX_SKIPS} steps in a row without a finite gradient; lower training.learning_rate or use fp32"
            )

    def _save(self, step: int) -> None:
        tensors = {f"learner.{name}": value for name, value in self.learner.state_dict().items()}
        tensors |= checkpoint.optimiser_tensors(self.optimiser)
        watchers = {type(watcher).__name__: watcher.state() for watcher in self.watchers}
        state = {"journal": self.journal.position(), "skips": self.skips, "metrics": self.metrics, "watchers": watchers}
        tensors = whole(tensors, self.ranks.leads)
        if not self.ranks.leads:
            return
        try:
            checkpoint.save(self.checkpoints, step, tensors, state)
        except OSError as error:
            self.journal.write("note", step=step, text=f"no checkpoint: {error.strerror}")

    def _restore(self, who: dict[str, Any]) -> int:
        found = checkpoint.load_latest(self.checkpoints)
        if found is None:
            self.journal.truncate(0)
            self.journal.write("start", **who)
            return 0
        tensors, state, complaints = found
        learner = {name.removeprefix("learner."): value for name, value in tensors.items() if name.startswith("learner.")}
        self.learner.load_state_dict(settled(self.learner.state_dict(), learner))
        checkpoint.load_optimiser(self.optimiser, settled_optimiser(self.optimiser, tensors))
        self.journal.truncate(state["journal"])
        self.skips, self.metrics = state["skips"], state["metrics"]
        for watcher in self.watchers:
            watcher.load_state(state["watchers"].get(type(watcher).__name__, {}))
        for complaint in complaints:
            self.journal.write("note", step=state["step"], text=complaint)
        return int(state["step"])
