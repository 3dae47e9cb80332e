"""Alarms: which figure means which collapse, from what value on, and what to do about it. ``docs/health.md`` has the reasons.

An alarm is raised when its figure has been beyond its limit for ``PATIENCE`` steps, so within 200 steps of the collapse: figures are looked
at every 50 steps or more often, and those of features reach at most 64 steps back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PATIENCE = 50
LONGEST_PAUSE = 50  # steps between two looks


@dataclass(frozen=True)
class Rule:
    """The figures whose names end in ``figure`` (for features: of the kinds ``of``) must not lie beyond ``limit``."""

    name: str
    figure: str
    limit: float
    above: bool
    meaning: str
    advice: str
    of: tuple[str, ...] = ()

    def covers(self, figure: str) -> bool:
        parts = figure.split("/")
        return parts[-1] == self.figure and (not self.of or parts[-2] in self.of)

    def broken(self, value: float) -> bool:
        """A figure that is not finite breaks no rule: the loop skips such steps and ends the run itself."""
        return value > self.limit if self.above else value < self.limit


LESS = "lower training.learning_rate or lengthen training.warmup"
RULES = (
    Rule(
        "constant", "variation", 0.002, False, "every crop has the same features",
        f"{LESS}; look at the views' pictures: crops may show nothing, or alterations may leave nothing to learn from",
        of=("pooled", "level", "dense"),
    ),
    Rule(
        "rank_1", "outside_1", 0.01, False, "the features of all crops lie on one line",
        f"{LESS}; give the objective a larger weight, or one that keeps features apart (contrast, restoration)", of=("pooled",),
    ),
    Rule(
        "low_rank", "outside_4", 0.01, False, "the features of all crops lie in four dimensions",
        f"{LESS}; use a smaller weight decay, more varied crops, or an objective that keeps features apart", of=("pooled",),
    ),
    Rule(
        "uniform_codes", "codes_entropy", 0.99, True, "teacher and student give every prototype the same probability",
        "lower the teacher's temperature, warm it up for longer, or raise the centre's momentum",
    ),
    Rule(
        "dead_prototypes", "prototypes_used", 0.1, False, "hardly any prototype is ever chosen",
        "use fewer prototypes than there are crops in the queue, raise the teacher's temperature, or freeze the last layer at first",
    ),
    Rule(
        "constant_restoration", "contrast", 0.05, False, "what is given back of a crop is one grey",
        f"{LESS}; alter less of the crop (in_painting, shuffle, ratio); a network without skip connections may need more steps or width",
    ),
    Rule(
        "exploding_gradient", "gradient_rise", 100.0, True, "the gradient is a hundred times what it was in this run",
        f"{LESS}; lower training.clip; use fp32 or bf16, not fp16",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Alarm:
    """One alarm, as it stands in the journal."""

    name: str
    figure: str
    value: float
    text: str


class Raised(ValueError):
    """Ends a run whose recipe says ``on_alarm: stop``."""


class Alarms:
    """Remembers since which step each figure has been beyond its limit; each collapse is told once."""

    def __init__(self) -> None:
        self.since: dict[str, int] = {}
        self.told: list[str] = []

    def judge(self, done: int, figures: Mapping[str, float]) -> list[Alarm]:
        """Alarms that ``figures``, read after ``done`` steps, raise now."""
        found = []
        for rule in RULES:
            for figure, value in figures.items():
                if rule.covers(figure):
                    found += self._judge(rule, f"{rule.name} {figure}", figure, done, value)
        return found

    def _judge(self, rule: Rule, mark: str, figure: str, done: int, value: float) -> list[Alarm]:
        if not rule.broken(value):
            self.since.pop(mark, None)
            self.told = [known for known in self.told if known != mark]
            return []
        begun = self.since.setdefault(mark, done)
        if done - begun < PATIENCE or mark in self.told:
            return []
        self.told.append(mark)
        text = f"{rule.meaning} ({figure} is {value:.3g}, limit {rule.limit:g}, since step {begun}). What to change: {rule.advice}."
        return [Alarm(rule.name, figure, value, text)]
