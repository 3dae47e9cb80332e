"""The watcher of every pretraining: figures of health for the journal, and alarms."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.step import Loss, Objective, Step
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.health import figures
from pipeline.training.health.alarms import LONGEST_PAUSE, Alarms, Raised
from pipeline.training.health.gradients import pulls
from pipeline.training.health.ring import Ring, of_all_ranks, rows_of
from pipeline.training.watch import Watcher

if TYPE_CHECKING:
    from pipeline.training.loop import Loop

GRADIENTS_EVERY = 100  # steps: they need a pass of their own
CODES_EVERY = 5
CODES_STEPS = 16
NORMS = 20  # steps whose median norm stands for now
HISTORY = 512  # medians that stand for the run so far
FREEDOM = 16  # rows that a rank needs at least
JUDGED = "contrast"  # an objective's own figure, which stands in the journal without us


class Health(Watcher):
    """Rank and spread of features, pulls of objectives, contrast of what is restored, use of prototypes; alarms where they collapse.

    Between two looks everything stays on the device; a look is one transfer. With several ranks every figure is of the batch of all of
    them, and each rank knows all that the others know.
    """

    def __init__(self) -> None:
        self.rings: dict[str, Ring] = {}
        self.chosen: dict[str, Ring] = {}
        self.norms: Ring = Ring(NORMS)
        self.prototypes: dict[str, int] = {}
        self.history: list[float] = []
        self.alarms = Alarms()
        self.fresh: dict[str, Tensor] = {}  # figures that wait to be read

    def stepped(self, loop: Loop, done: int, step: Step, losses: Mapping[str, Loss]) -> None:
        with torch.no_grad():
            rows = {f"{view}/{kind}": rows for view, features in step.student.items() for kind, rows in rows_of(features).items()}
            for name, of_all in of_all_ranks(rows, loop.ranks).items():
                self.rings.setdefault(name, Ring()).add(of_all)
            self.norms.add(loop.gradient_norm.detach().reshape(1, 1))
            for name, objective in loop.learner.objectives.items():
                if done % CODES_EVERY == 0 and type(objective).health is not Objective.health:
                    self._codes(loop.ranks, name, objective.health(step))
        if due(loop, done):
            self.fresh |= {f"{name}/{JUDGED}": loss.metrics[JUDGED] for name, loss in losses.items() if JUDGED in loss.metrics}
        if done % GRADIENTS_EVERY == 0:
            self.fresh |= pulls(loop.learner, step, loop.training.micro_batch)
        if due(loop, done) and not written(loop, done):
            self._look(loop, done)

    def journalled(self, loop: Loop, done: int) -> Mapping[str, float]:
        return {f"health/{name}": value for name, value in self._look(loop, done).items() if name.rpartition("/")[2] != JUDGED}

    def tensors(self) -> dict[str, Tensor]:
        rings = {"ring": self.rings, "chosen": self.chosen, "norms": {"": self.norms}}
        held = {f"{kind}:{name}": ring.values for kind, of in rings.items() for name, ring in of.items() if ring.values is not None}
        return held | {f"fresh:{name}": value.detach() for name, value in self.fresh.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.rings, self.chosen, self.norms, self.fresh = {}, {}, Ring(NORMS), {}
        for key, value in tensors.items():
            kind, _, name = key.partition(":")
            if kind == "fresh":
                self.fresh[name] = value
            else:
                self._ring(kind, name).values = value.clone()

    def state(self) -> dict[str, Any]:
        added = {key: self._ring(*key.split(":", 1)).added for key in self.tensors() if not key.startswith("fresh:")}
        alarms = {"since": self.alarms.since, "told": self.alarms.told}
        return {"added": added, "history": self.history, "prototypes": self.prototypes, **alarms}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for key, added in state.get("added", {}).items():
            self._ring(*key.split(":", 1)).added = added
        self.history, self.prototypes = list(state.get("history", [])), dict(state.get("prototypes", {}))
        self.alarms.since, self.alarms.told = dict(state.get("since", {})), list(state.get("told", []))

    def _ring(self, kind: str, name: str) -> Ring:
        if kind == "norms":
            return self.norms
        return self.rings.setdefault(name, Ring()) if kind == "ring" else self.chosen.setdefault(name, Ring(CODES_STEPS))

    def _codes(self, ranks: Ranks, name: str, said: Mapping[str, Tensor]) -> None:
        """Figures are means over the ranks; which prototypes were chosen is told by all."""
        codes = {key.removesuffix("_codes"): value for key, value in said.items() if key.endswith("_codes")}
        own = {f"{who}_entropy": figures.entropy(value) for who, value in codes.items()}
        own |= {key: value for key, value in said.items() if not key.endswith("_codes")}
        if own:
            means = ranks.mean(torch.stack([value.detach().float() for value in own.values()])).unbind()
            self.fresh |= {f"{name}/{key}": mean for key, mean in zip(own, means, strict=True)}
        if codes:
            self.fresh[f"{name}/codes_entropy"] = torch.stack([self.fresh[f"{name}/{who}_entropy"] for who in codes]).min()
        if "teacher" in codes:
            self.prototypes[name] = codes["teacher"].shape[1]
            self.chosen.setdefault(name, Ring(CODES_STEPS)).add(ranks.gathered(codes["teacher"].argmax(1)[:, None].float()))

    def _look(self, loop: Loop, done: int) -> dict[str, float]:
        """All figures in one transfer; alarms that they raise go to the journal. All ranks read the same bits, so they raise the same."""
        with torch.no_grad():
            for name, ring in self.rings.items():
                self.fresh |= {f"{name}/{figure}": value for figure, value in of_features(ring).items()}
            for name, ring in self.chosen.items():
                self.fresh[f"{name}/prototypes_used"] = figures.used(ring.steps().flatten().long(), self.prototypes[name])
            if self.norms.added:
                self.fresh["gradient_median"] = self.norms.steps().median()
        if not self.fresh:
            return {}
        values = loop.ranks.mean(torch.stack([value.detach().float().to(loop.device) for value in self.fresh.values()])).tolist()
        found = dict(zip(self.fresh, values, strict=True))
        self.fresh = {}
        if "gradient_median" in found:
            found["gradient_rise"] = found["gradient_median"] / max(statistics.median(self.history or [found["gradient_median"]]), 1e-12)
            self.history = [*self.history, found["gradient_median"]][-HISTORY:]
        self._raise(loop, done, found)
        return found

    def _raise(self, loop: Loop, done: int, found: dict[str, float]) -> None:
        raised = self.alarms.judge(done, found)
        for alarm in raised if loop.ranks.leads else ():
            loop.journal.write("alarm", step=done, name=alarm.name, figure=alarm.figure, value=alarm.value, text=alarm.text)
            print(f"ALARM at step {done}: {alarm.name}: {alarm.text}", file=sys.stderr, flush=True)
        if raised and loop.training.on_alarm == "stop":
            what = f"{raised[0].name}: {raised[0].text}"
            raise Raised(f"{loop.folder}: step {done}: {what} The recipe ends such a run (training.on_alarm).")


def due(loop: Loop, done: int) -> bool:
    """Whether figures are read after this step: at every line of the journal, and at least every ``LONGEST_PAUSE`` steps."""
    return loop.due(min(loop.training.journal_every, LONGEST_PAUSE), done) or written(loop, done)


def written(loop: Loop, done: int) -> bool:
    return loop.due(loop.training.journal_every, done)


def of_features(ring: Ring) -> dict[str, Tensor]:
    """Figures of one kind of feature. ``rank`` is RankMe as published; ``rank_within`` and ``outside_n`` are of deviations."""
    steps = ring.steps()
    rows = steps.flatten(0, 1)
    found = {"rank": figures.rank(figures.spectrum(rows)), "spread": figures.spread(rows), "variation": figures.variation(steps)}
    if ring.freedom() >= FREEDOM:
        spectrum = figures.spectrum(figures.deviations(steps))
        found |= {
            "rank_within": figures.rank(spectrum),
            "outside_1": figures.outside(spectrum, 1),
            "outside_4": figures.outside(spectrum, 4),
        }
    return found
