"""What a run makes of steps that go wrong. All ranks come to the same end, since they judge by figures they share.

A step whose loss or gradient is not finite is skipped. After ten in a row the run goes back to its last checkpoint, with samples it has
never seen; if that happens again, it ends with a reason. A spike is noted, or skipped where ``training.spikes`` says so. Every such step
leaves the numbers of its samples and the ids of their scans in the journal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.recipe import Training
from pipeline.tracking.journal import Journal
from pipeline.training.loading.substitutes import Unread, allowed

MAX_SKIPS = 10
MAX_ROLLBACKS = 1
LISTED = 10  # scans named in an error


class Rules:
    """``rollbacks`` shifts the data; ``in_a_row`` and ``unread`` count. All of it is part of a checkpoint."""

    def __init__(self, folder: Path, training: Training, journal: Journal, scan_of: Callable[[int], str]) -> None:
        self.folder, self.training, self.journal, self.scan_of = folder, training, journal, scan_of
        self.in_a_row = self.rollbacks = self.unread = 0
        self.skipped: list[dict[str, Any]] = []
        self.reasons: dict[str, str] = {}

    @property
    def first_sample(self) -> int:
        """Number of the run's first sample: after going back, all numbers are new ones."""
        return self.rollbacks * self.training.steps * self.training.batch

    def samples(self, step: int) -> range:
        """The samples of a step, over all ranks."""
        return range(self.first_sample + step * self.training.batch, self.first_sample + (step + 1) * self.training.batch)

    def go_on(self, step: int, finite: bool, spike: bool, good: bool) -> bool:
        """False if the run must go back. After it did once, the same again is a ``ValueError``."""
        if good:
            self.in_a_row, self.skipped = 0, []
        if finite and not spike:
            return True
        samples = list(self.samples(step))
        entry = {"step": step, "samples": samples, "scans": [self.scan_of(sample) for sample in samples]}
        why = "a loss or a gradient is not finite" if not finite else "the loss is far above the last ones"
        self.journal.write("note", text=f"{'noted' if good else 'skipped'}: {why}", **entry)
        if finite:
            return True
        self.in_a_row += 1
        self.skipped.append(entry)
        if self.in_a_row < MAX_SKIPS:
            return True
        if self.rollbacks >= MAX_ROLLBACKS:
            raise ValueError(
                f"{self.folder}: {MAX_SKIPS} steps in a row without a finite loss and gradient, and again after going back and on with "
                f"other samples (steps {self.skipped[0]['step']} to {step}; journal.jsonl names their scans); lower training.learning_rate "
                "or use fp32"
            )
        return False

    def count_unread(self, step: int, own: Sequence[Unread], count: int) -> None:
        """``own`` crops of this rank, and the ``count`` of all ranks, that others took the place of; too many are a ``ValueError``."""
        self.reasons |= {unread.scan_id: unread.reason for unread in own}
        if not count:
            return
        self.unread += count
        for unread in own:  # a rank that does not lead has no journal
            print(f"vesalius: scan {unread.scan_id}: a crop could not be read ({unread.reason}); another takes its place", file=sys.stderr)
        entries = [{"sample": unread.sample, "scan": unread.scan_id, "reason": unread.reason} for unread in own]
        self.journal.write("note", step=step, text=f"{count} crops could not be read; others took their place", unread=entries)
        most = allowed(self.training.max_unread, self.training.steps * self.training.batch)
        if self.unread > most:
            listed = "; ".join(f"{scan}: {reason}" for scan, reason in sorted(self.reasons.items())[:LISTED])
            raise ValueError(
                f"{self.folder}: {self.unread} crops could not be read, more than training.max_unread allows ({most} of this run's); "
                f"run `vesalius verify` ({listed or 'read by other ranks, see their logs'})"
            )

    def state(self) -> dict[str, Any]:
        return {"in_a_row": self.in_a_row, "rollbacks": self.rollbacks, "unread": self.unread, "skipped": self.skipped}

    def load_state(self, state: dict[str, Any]) -> None:
        self.in_a_row, self.rollbacks, self.unread = state["in_a_row"], state["rollbacks"], state["unread"]
        self.skipped = list(state["skipped"])
