"""Cells: one fine-tuning each, of a number of labels and a seed; which there are, how long they run, and the table they end in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.files import digest_of, read_json, write_json, write_table
from pipeline.plan import Plan, Transfer
from pipeline.study import Finetune, Initialisation

SCRATCH = "scratch"


@dataclass(frozen=True)
class Cell:
    """One fine-tuning. ``run`` is the pretraining that it starts from, None from scratch."""

    num_labels: int
    seed: int
    steps: int
    learning_rate: float
    run: str | None

    @property
    def name(self) -> str:
        return f"{self.num_labels}-s{self.seed}"


def initialisation(plan: Plan, name: str) -> Initialisation:
    """Its settings; ``scratch`` must be among a study's initialisations and must start from nothing."""
    values = plan.study["initialisations"] or {SCRATCH: {}}
    if SCRATCH not in values or values[SCRATCH].get("recipe"):
        raise ValueError(f"{plan.study['name']}: initialisations: needs `scratch: {{}}`, without a recipe, to compare the others with")
    return Initialisation.model_validate(values[name])


def sizes(settings: Finetune, initialisation: Initialisation, available: int) -> tuple[int, ...]:
    """Numbers of labelled scans, ascending; ``all`` is every labelled training scan. More than there are is a ``ValueError``."""
    wanted = initialisation.num_labels or settings.num_labels
    numbers = sorted({available if size == "all" else size for size in wanted})
    if numbers[0] < 1 or numbers[-1] > available:
        wrong = numbers[0] if numbers[0] < 1 else numbers[-1]
        raise ValueError(
            f"finetune.num_labels: {wrong} labelled scans are asked for; 1 to {available} can be had from the train split; lower it"
        )
    return tuple(numbers)


def check_sizes(plan: Plan, transfer: Transfer, available: int) -> None:
    """Wrong sizes are told before hours of work: too many labels, a search that cannot run, a plan without a primary figure."""
    study = plan.study_value()
    numbers = sizes(study.finetune, initialisation(plan, transfer.initialisation), available)
    absent = sorted(set(numbers) - set(sizes(study.finetune, initialisation(plan, SCRATCH), available)))
    if absent:
        raise ValueError(
            f"initialisations.{transfer.initialisation}.num_labels: scratch has no size {absent[0]} to compare with; add it there"
        )
    if transfer.planned:
        primary_sizes(numbers, study.verdict.primary_max_labels, transfer.initialisation)
    if study.finetune.search and study.finetune.search.num_labels > available:
        raise ValueError(
            f"finetune.search.num_labels: {study.finetune.search.num_labels} is more than the {available} labelled training scans"
        )


def primary_sizes(numbers: Sequence[int], most: int, initialisation: str) -> tuple[int, ...]:
    """Sizes that the primary figure, one mean Dice, is taken over; none is a ``ValueError``."""
    found = tuple(number for number in numbers if number <= most)
    if not found:
        raise ValueError(
            f"verdict.primary_max_labels: {initialisation} has no size up to {most}, so the plan has no figure to test; "
            "raise it, or set `planned: false` for this initialisation"
        )
    return found


def steps_of(settings: Finetune, num_labels: int) -> int:
    """``steps``, or those of the largest key of ``steps_above`` below this size."""
    return _above(settings.steps_above, num_labels, settings.steps)


def seeds_of(settings: Finetune, num_labels: int) -> tuple[int, ...]:
    return tuple(_above(settings.seeds_above, num_labels, settings.seeds))


def plan_cells(
    settings: Finetune, initialisation: Initialisation, runs: tuple[str, ...], available: int, learning_rate: float, length: float
) -> tuple[Cell, ...]:
    """Every cell of an initialisation, small sizes first. Seed s starts from the run of pretraining seed s modulo their number."""
    cells = []
    for number in sizes(settings, initialisation, available):
        steps = num_steps(settings, initialisation, number, length)
        for seed in seeds_of(settings, number):
            cells.append(Cell(number, seed, steps, learning_rate, runs[seed % len(runs)] if runs else None))
    return tuple(cells)


def num_steps(settings: Finetune, initialisation: Initialisation, num_labels: int, length: float) -> int:
    return max(1, round(steps_of(settings, num_labels) * length * initialisation.steps_factor))


def read_cell(path: Path, settings_digest: str) -> dict[str, Any] | None:
    """A finished cell, if it was made with these very settings and data."""
    if not path.exists():
        return None
    value = read_json(path)
    return value if value.get("settings_digest") == settings_digest else None


def write_cell(path: Path, cell: Cell, settings: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    value = {"cell": asdict(cell), "settings": settings, "settings_digest": digest_of(settings), **results}
    write_json(path, value)
    return value


def cases_table(
    task: str, initialisation: str, cells: Iterable[dict[str, Any]], scans: dict[str, pd.DataFrame], pretrain_seeds: dict[str, int]
) -> pd.DataFrame:
    """``cases.parquet``: a row for each cell, held-out scan and class.

    task, initialisation; pretrain_seed (-1 from scratch), seed; num_labels, is_all (whether that is every labelled scan); split (test
    or validation), scan_id, subject_id, cluster_id; class_name; dice (NaN if empty); empty (neither prediction nor reference
    has the class); steps, learning_rate.
    """
    rows = []
    for value in cells:
        cell = value["cell"]
        for split in ("validation", "test"):
            for scan in scans[split].itertuples():
                for name, dice in value[split][scan.scan_id].items():
                    rows.append({
                        "task": task, "initialisation": initialisation, "pretrain_seed": pretrain_seeds.get(cell["run"], -1),
                        "seed": cell["seed"], "num_labels": cell["num_labels"], "is_all": cell["num_labels"] == len(scans["train"]),
                        "split": split, "scan_id": scan.scan_id, "subject_id": scan.subject_id, "cluster_id": scan.cluster_id,
                        "class_name": name, "dice": float("nan") if dice is None else dice, "empty": dice is None,
                        "steps": cell["steps"], "learning_rate": cell["learning_rate"],
                    })  # fmt: skip
    order = ["num_labels", "seed", "split", "scan_id", "class_name"]
    return pd.DataFrame(rows).sort_values(order, ignore_index=True)


def write_cases(frame: pd.DataFrame, path: Path) -> None:
    write_table(path, lambda temporary: frame.to_parquet(temporary, index=False))


def _above(table: dict[int, Any], number: int, default: Any) -> Any:
    keys = [bound for bound in table if number > bound]
    return table[max(keys)] if keys else default
