"""Finished cells of a study as a few small files that may be committed, and back: so a study goes on after its results folder is gone.

One JSON file for each initialisation holds its cells without their loss curves: settings, digests of data and weights, and Dice of every
validation and test scan and class. A cell that comes back is used only where its settings, data and weights are those of the plan.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.files import read_json, write_json, write_text
from pipeline.folder import StudyFolder
from pipeline.plan import Plan, Transfer

STAGES = ("search", "cells")
SPLITS = ("validation", "test")


def keep(plan: Plan, where: StudyFolder, folder: Path) -> dict[str, int]:
    """Writes ``folder/<task>-<initialisation>.json`` for each transfer that has cells; returns how many cells each holds."""
    counts = {}
    for transfer in plan.transfers:
        cells = {
            f"{stage}/{path.stem}": read_json(path)
            for stage in STAGES
            for path in sorted((where.transfer(transfer.transfer) / stage).glob("*.json"))
        }
        if cells:
            write_text(path_of(folder, transfer), packed(cells))
            counts[transfer.initialisation] = len(cells)
    return counts


def restore(plan: Plan, where: StudyFolder, folder: Path) -> dict[str, int]:
    """Puts kept cells back beside those that are there; returns how many each transfer got."""
    counts = {}
    for transfer in plan.transfers:
        path = path_of(folder, transfer)
        for name, value in unpacked(read_json(path)).items() if path.exists() else ():
            target = where.transfer(transfer.transfer) / f"{name}.json"
            if not target.exists():
                write_json(target, value)
                counts[transfer.initialisation] = counts.get(transfer.initialisation, 0) + 1
    return counts


def path_of(folder: Path, transfer: Transfer) -> Path:
    return folder / f"{transfer.task}-{transfer.initialisation}.json"


def packed(cells: dict[str, dict[str, Any]]) -> str:
    """JSON, a line a cell: what all cells share, and the names of scans and classes, stand once."""
    first = next(iter(cells.values()))
    shared = {key: value for key, value in first["settings"].items() if all(cell["settings"].get(key) == value for cell in cells.values())}
    scans = {split: sorted({scan for cell in cells.values() for scan in cell.get(split, ())}) for split in SPLITS}
    classes = list(next(iter(first["validation"].values())))
    lines = []
    for name, cell in cells.items():
        own = {key: value for key, value in cell["settings"].items() if key not in shared}
        dice = {split: [[cell[split][scan][c] for c in classes] for scan in scans[split]] for split in SPLITS if split in cell}
        line = {"cell": cell["cell"], "settings": own, "settings_digest": cell["settings_digest"], "skipped": cell["skipped"], **dice}
        lines.append(f"{json.dumps(name)}: {json.dumps(line, separators=(',', ':'), allow_nan=False)}")
    head = {"shared": shared, "scans": scans, "classes": classes}
    return json.dumps(head, indent=1, sort_keys=True)[:-2] + ',\n "cells": {\n' + ",\n".join(lines) + "\n }\n}\n"


def unpacked(value: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The inverse of ``packed``, without the loss curves."""
    cells = {}
    for name, line in value["cells"].items():
        scores = {
            split: {
                scan: dict(zip(value["classes"], dice, strict=True)) for scan, dice in zip(value["scans"][split], line[split], strict=True)
            }
            for split in SPLITS
            if split in line
        }
        rest = {key: item for key, item in line.items() if key not in SPLITS}
        cells[name] = {**rest, "settings": {**value["shared"], **line["settings"]}, "curve": [], **scores}
    return cells
