"""Progress for people: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

SECONDS_A_LINE = 1.0  # at most one plain line in so many, and at most ten in all


class Progress:
    """``with Progress("pretrain", total=600) as progress: progress.advance(loss=0.1)``."""

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "step", shown: bool = True) -> None:
        self.label, self.total, self.done, self.unit, self.shown = label, total, done, unit, shown
        self.begun, self.first, self.lines = time.monotonic(), done, 0
        self.told = self.begun
        self.bar: Any = None

    def __enter__(self) -> Progress:
        if self.shown and sys.stderr.isatty():
            from rich import progress as rich
            from rich.console import Console

            self.bar = rich.Progress(
                rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(),
                rich.TextColumn("{task.fields[words]}"), rich.TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total, completed=self.done, words="")
        return self

    def advance(self, kept: bool = False, **figures: float | None) -> None:
        """One unit done, or kept from an earlier call: those say nothing of the rate. Figures stand beside the bar unless None."""
        self.done += 1
        self.first += kept
        now = time.monotonic()
        rate = (self.done - self.first) / max(now - self.begun, 1e-9)
        speed = [f"{rate:.2f} {self.unit}/s"] if rate else []
        words = " ".join([*speed, *(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)])
        if self.bar:
            self.bar.update(self.task, completed=self.done, words=words)
        elif self.shown and (self.done == self.total or (self.done * 10 // self.total > self.lines and now - self.told >= SECONDS_A_LINE)):
            self.lines, self.told = self.done * 10 // self.total, now
            left = f", {(self.total - self.done) / rate:.0f} s left" if rate else ""
            print(f"{self.label}: {self.done}/{self.total} {words}{left}", file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()
