"""The loop: steps, epochs, journal, evaluation, checkpoints. Of a learner it knows ``backward``, ``update`` and ``epoch``.

A run that is killed and called again ends with the same bytes, since batches, views and learning rate are functions of the step and
the checkpoint holds everything else. "Same" is meant for one number of threads and ranks and one kind of processor.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.keys import key
from pipeline.progress import Progress
from pipeline.recipe import Training, share
from pipeline.step import Loss, Step, to_device
from pipeline.tracking.journal import Journal, Silence
from pipeline.training.checkpoints.checkpoint import Checkpoints
from pipeline.training.checkpoints.keeping import go_back, restore, save
from pipeline.training.distributed.layout import place
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.distributed.sharded import local
from pipeline.training.faults.rules import Rules
from pipeline.training.faults.spikes import Spikes
from pipeline.training.faults.watchdog import Watchdog
from pipeline.training.injection import Faults
from pipeline.training.learner import Learner
from pipeline.training.loading.loader import Loader
from pipeline.training.loading.staging import on_device
from pipeline.training.micro import micro_batches
from pipeline.training.optimiser import make_optimiser
from pipeline.training.readings import Reading, Readings
from pipeline.training.signals import Stop, Stopped, watching
from pipeline.training.stepping import Outcome, Stepper, written
from pipeline.training.watch import Watcher

NUM_JUDGED = 4  # batches of held-out crops in an evaluation
PACKED = 6  # figures of every step, of ``Outcome.packed``


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
        faults: Faults | None = None,
    ) -> None:
        self.ranks, self.watchers = ranks or Ranks(), tuple(watchers)
        self.faults = faults or Faults.from_environment(self.ranks.rank)
        self.device = self.ranks.device
        self.learner, self.loader, self.judge, self.training, self.folder = learner, loader, judge, training, folder
        place(learner, training, self.ranks)
        _, self.micro_batch = share(training.batch, training.micro_batch, self.ranks.world)
        self.trained = [p for p in learner.parameters() if p.requires_grad]
        self.optimiser = make_optimiser([(self.trained, 1.0)], training.learning_rate, training.weight_decay)
        self.spikes = Spikes(self.device, training.spikes == "skip")
        steps = (training.steps, training.warmup, training.clip)
        self.stepper = Stepper(self.trained, self.optimiser, *steps, written(learner), self.ranks, self.spikes)
        self.journal = Journal(folder / "journal.jsonl") if self.ranks.leads else Silence()
        self.rules = Rules(folder, training, self.journal, loader.scan_of)
        loader.faults, self.step_now = self.faults, 0
        learner.told = lambda text: self.journal.write("note", step=self.step_now, text=text)
        self.checkpoints = Checkpoints(folder / "checkpoints", at=lambda stage: self.faults.at(f"save:{stage}", self.step_now))
        self.readings, self.seconds = Readings(self.device), {"wait": 0.0, "step": 0.0}
        self.dog = Watchdog(folder, self.ranks, training.hang_s(self.ranks.world))
        self.stop, self.stop_code = Stop(), 0
        self.last_loss: float | None = None  # on a GPU it is known some steps late
        self.gradient_norm = torch.zeros(())  # of the last step, before it was clipped; on the device
        self.may_write: Sequence[Callable[[], None]] = ()  # each raises if this process may write no more
        self.who: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        self.best: dict[str, float] = {}

    @property
    def steps_per_epoch(self) -> int:
        """An epoch is so many steps as the pool of scans needs to be seen once."""
        return math.ceil(len(self.loader.scan_ids) / self.training.batch)

    def due(self, every: int, done: int) -> bool:
        """What happens every so many steps, and at the end."""
        return done % every == 0 or done == self.training.steps

    def run(self, who: dict[str, Any]) -> dict[str, float]:
        """From the newest checkpoint, or from the start, to the end; returns the last evaluation's metrics."""
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        self.who, label = who, str(who.get("run", "pretrain"))
        with watching() as self.stop, self.dog:
            self.dog.doing("restoring", 0)
            first: int | None = restore(self)
            while first is not None:
                with Progress(label, self.training.steps, first, shown=self.ranks.leads) as progress:
                    first = self._go(first, progress)
        self.journal.write("end", step=self.training.steps, metrics=self.metrics)
        return self.metrics

    def _go(self, first: int, progress: Progress) -> int | None:
        """Steps from ``first`` to the end; the step to go on with if the run had to go back, None if it is done."""
        self.dog.doing("reading", first)
        mark = time.monotonic()
        batches = self.loader.batches(first, self.training.steps, self.rules.first_sample, self.training.patience_s)
        for step, region in enumerate(on_device(batches, self.device), start=first):
            self.seconds["wait"] += time.monotonic() - mark
            begun = time.monotonic()
            self._step(step, region)
            self.seconds["step"] += time.monotonic() - begun
            done = step + 1
            judging, saving = (self.due(every, done) for every in (self.training.evaluate_every, self.training.checkpoint_every))
            if not self._read_all(judging or saving) or (self.stop_code and not self._read_all(True)):
                return self._go_back(step)
            if judging:
                self._judge(done)
            if saving or self.stop_code:
                self.dog.doing("saving", done)
                save(self, done)
            if self.stop_code:
                raise Stopped(self.stop_code)
            progress.advance(loss=self.last_loss)
            self.dog.doing("reading", done)
            mark = time.monotonic()
        return None

    def _step(self, step: int, region: Any) -> None:
        """One step, with all that may be injected into it, and what is to be read of it later."""
        self.step_now = step
        self.dog.doing("computing", step)
        self.faults.at("step", step)
        if step % self.steps_per_epoch == 0:
            self.learner.epoch(step // self.steps_per_epoch)
        outcome, losses = self.step(step, region)
        unread = self.loader.unread(self.rules.samples(step))
        counted = self.ranks.total(torch.full((1,), float(len(unread)), device=self.device))
        values, what = [outcome.packed(), counted], {"unread": unread}
        if self.due(self.training.journal_every, step + 1):
            figures = {**self._named(losses), **self._from_watchers(step + 1)}
            named = {name: value for name, value in figures.items() if isinstance(value, Tensor)}
            values.append(self.ranks.mean(torch.stack([value.to(torch.float32) for value in named.values()])))
            known = {name: value for name, value in figures.items() if name not in named}
            seconds = {f"time_{name}": round(value, 3) for name, value in self.seconds.items()}
            what |= {"names": list(named), "known": {**known, "learning_rate": outcome.rate}, "seconds": seconds}
        self.readings.put(step + 1, torch.cat(values), **what)

    def _from_watchers(self, done: int) -> dict[str, Any]:
        return {name: value for watcher in self.watchers for name, value in watcher.journalled(self, done).items()}

    def step(self, step: int, region: Any) -> tuple[Outcome, Mapping[str, Loss]]:
        """Forward, backward and one optimiser step, which is skipped on all ranks if it is not finite on one of them."""
        torch.manual_seed(key(self.learner.seed, "torch", step))
        self.learner.train()
        self.stepper.begin()
        progress, epoch = step / self.training.steps, step // self.steps_per_epoch
        losses, seen = self.learner.backward(micro_batches(region, self.micro_batch), progress=progress, step=step, epoch=epoch)
        loss = self._spoilt(step, sum(self.learner.weights[name] * found.value.detach() for name, found in losses.items()))
        outcome = self.stepper.finish(step, loss, self.stop.code, lambda: self.learner.update(seen))
        self.gradient_norm = outcome.norm
        self._watched(step, outcome, seen, losses)
        return outcome, losses

    def _watched(self, step: int, outcome: Outcome, seen: Step, losses: Mapping[str, Loss]) -> None:
        """A GPU does not say here whether it skipped, so watchers see every step there."""
        if self.watchers and (outcome.good.is_cuda or bool(outcome.good)):
            for watcher in self.watchers:
                watcher.stepped(self, step + 1, seen, losses)

    def _spoilt(self, step: int, loss: Tensor) -> Tensor:
        """The loss, unless a fault is to be injected into it or into the gradient."""
        values = {"nan": torch.nan, "inf": torch.inf, "big": 100.0, None: 1.0}
        if act := self.faults.at("gradient", step):
            local(next(p for p in self.trained if p.grad is not None).grad).mul_(values[act])
        return loss * values[self.faults.at("loss", step)]

    def _read_all(self, all_of_them: bool) -> bool:
        return all(self._read(reading) for reading in self.readings.due(all_of_them))

    def _read(self, reading: Reading) -> bool:
        """Writes down what a step's figures say; False if the run must go back."""
        stop, finite, spike, good, self.last_loss, norm, count = reading.values[: PACKED + 1]
        self.stop_code = max(self.stop_code, int(stop))
        step, what = reading.done - 1, reading.what
        self.rules.count_unread(step, what["unread"], int(count))
        if "names" in what:
            metrics = dict(zip(what["names"], reading.values[PACKED + 1 :], strict=True))
            metrics |= {"loss": _whole(metrics), "gradient_norm": norm, **what["known"]}
            self.journal.write("train", step=reading.done, metrics=metrics, **what["seconds"])
        return self.rules.go_on(step, bool(finite), bool(spike), bool(good))

    def _go_back(self, step: int) -> int:
        self.readings.clear()
        self.dog.doing("going back", step)
        return go_back(self, step)

    def _judge(self, done: int) -> None:
        self.dog.doing("evaluating", done)
        self.faults.at("evaluate", done)
        self.metrics = self.evaluate(done)
        if self.metrics and self.metrics["loss"] < self.best.get("loss", math.inf):
            self.best = {"step": done, "loss": self.metrics["loss"]}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Mean of every loss and metric over held-out subjects; the same crops and views at every step."""
        if self.judge is None:
            return {}
        self.learner.eval()
        sums: dict[str, float] = {}
        for batch in range(NUM_JUDGED):
            region = to_device(self.judge.region(batch * self.judge.batch), self.device)
            losses, _ = self.learner.losses(region, progress=step / self.training.steps, step=step)
            named = self._named(losses)
            values = self.ranks.mean(torch.stack(list(named.values()))).tolist()
            figures = dict(zip(named, values, strict=True))
            figures["loss"] = _whole(figures)
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value / NUM_JUDGED
        self.journal.write("evaluate", step=step, metrics=sums)
        return sums

    def _named(self, losses: Mapping[str, Loss]) -> dict[str, Any]:
        """Every figure of every objective, 0-d float32 on the device."""
        named: dict[str, Tensor] = {}
        for name, loss in losses.items():
            named[f"{name}/loss"] = loss.value
            named[f"{name}/weighted"] = loss.value * self.learner.weights[name]
            named |= {f"{name}/{term}": value for term, value in {**loss.terms, **loss.metrics}.items()}
        return {name: value.detach().to(torch.float32) for name, value in named.items()}


def _whole(figures: Mapping[str, float]) -> float:
    """The loss that is descended: the weighted sum of the objectives'."""
    return sum(value for name, value in figures.items() if name.endswith("/weighted"))
