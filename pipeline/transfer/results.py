"""Results of fine-tuning as arrays: for each initialisation and size, Dice by seed and case of the test subjects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.transfer.metrics import case_mean
from pipeline.transfer.statistics import paired


@dataclass(frozen=True)
class SizeResults:
    """One initialisation with one number of labels. ``dice`` maps a scan to its mean Dice over classes, (S,) in the order of ``seeds``."""

    num_labels: int
    is_all: bool
    seeds: tuple[int, ...]
    dice: dict[str, np.ndarray]
    clusters: tuple[str, ...]
    num_empty: int
    steps: int
    learning_rate: float
    classes: dict[str, float]

    def table(self) -> np.ndarray:
        """(S, J): Dice by seed and subject cluster; scans of one cluster are averaged, since they are not independent."""
        return by_cluster(np.stack(list(self.dice.values()), axis=1), self.clusters)

    def against(self, other: SizeResults) -> np.ndarray:
        """(S, J): paired differences to another initialisation; unequal cases or seeds are a ``ValueError``."""
        if self.seeds != other.seeds:
            raise ValueError(f"cases: seeds {self.seeds} and {other.seeds} at {self.num_labels} labels; fine-tune both with the same seeds")
        return by_cluster(paired(self.dice, other.dice), self.clusters)


def read_results(path: Path) -> dict[int, SizeResults]:
    """Test results by number of labels, ascending, of a ``cases.parquet``."""
    if not path.exists():
        raise ValueError(f"{path}: there are no results; run `vesalius finetune` for this transfer first")
    frame = pd.read_parquet(path)
    frame = frame[frame["split"] == "test"]
    return {int(number): _size_results(part) for number, part in sorted(frame.groupby("num_labels"), key=lambda item: item[0])}


def by_cluster(table: np.ndarray, clusters: tuple[str, ...]) -> np.ndarray:
    """(S, cases) -> (S, J), the mean over each cluster's cases, clusters sorted; NaN is left out."""
    names = np.asarray(clusters)
    return np.stack([case_mean(table[:, names == name]) for name in sorted(set(clusters))], axis=1)


def _size_results(part: pd.DataFrame) -> SizeResults:
    seeds = tuple(int(seed) for seed in sorted(part["seed"].unique()))
    scans = part.drop_duplicates("scan_id").sort_values("scan_id")
    names = sorted(part["class_name"].unique())
    dice = {}
    for scan_id, rows in part.groupby("scan_id"):
        table = rows.pivot(index="seed", columns="class_name", values="dice").reindex(index=list(seeds), columns=names)
        dice[str(scan_id)] = case_mean(table.to_numpy(dtype=np.float64))
    return SizeResults(
        num_labels=int(part["num_labels"].iloc[0]),
        is_all=bool(part["is_all"].iloc[0]),
        seeds=seeds,
        dice=dict(sorted(dice.items())),
        clusters=tuple(scans["cluster_id"]),
        num_empty=int(part["empty"].sum()),
        steps=int(part["steps"].iloc[0]),
        learning_rate=float(part["learning_rate"].iloc[0]),
        classes={name: float(rows["dice"].mean()) for name, rows in part.groupby("class_name")},
    )
