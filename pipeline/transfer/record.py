"""The journal of a transfer, written cell by cell from the cells' results: a cell that is read back writes no line twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.tracking.journal import Journal, read_journal
from pipeline.transfer.metrics import mean_dice


class Record:
    """``step`` counts the optimiser steps of all cells so far, in their fixed order. Test figures stay out: they belong to the verdict."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.journal, self.offset = Journal(path), 0
        known = read_journal(path)
        begun = [entry for entry in known if entry["kind"] == "start"]
        if not begun or any(begun[-1].get(name) != value for name, value in identity.items()):
            self.journal.truncate(0)
            known = []
            self.journal.write("start", **identity)
        self.known = {(entry["kind"], entry.get("step"), entry.get("cell")) for entry in known}

    def add(self, value: dict[str, Any], stage: str = "cells") -> None:
        """The loss curve and the mean validation Dice of one cell."""
        cell = value["cell"]
        name = f"{stage}/{cell['num_labels']}-s{cell['seed']}"
        for step, loss, rate in value["curve"]:
            self._write(
                "train", self.offset + step, name, {"learning_rate": rate} if loss is None else {"learning_rate": rate, "loss": loss}
            )
        self.offset += cell["steps"]
        dice = round(mean_dice(value["validation"]), 6)
        self._write("evaluate", self.offset, name, {"dice": dice, f"dice_{cell['num_labels']}_labels": dice})

    def end(self) -> None:
        if ("end", self.offset, None) not in self.known:
            self.journal.write("end", step=self.offset)

    def _write(self, kind: str, step: int, cell: str, metrics: dict[str, float]) -> None:
        if (kind, step, cell) not in self.known:
            self.journal.write(kind, step=step, cell=cell, metrics=metrics)
