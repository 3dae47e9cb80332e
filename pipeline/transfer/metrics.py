"""Metrics of one case: the Dice overlap of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """Dice of one class in one case. ``empty``: neither prediction nor reference has the class, and ``dice`` is NaN."""

    dice: float
    empty: bool


def overlaps(prediction: np.ndarray, reference: np.ndarray, classes: Mapping[int, str]) -> dict[str, Overlap]:
    """Dice (1945) of each class, 2 |P and R| / (|P| + |R|), of label maps (D, H, W); ``classes`` maps label values to names.

    Empty in both is NaN and counted by itself, since there is nothing to overlap; empty in one is 0, the worst. A class's figure
    is blind to the other classes. Maps of different shapes are a ``ValueError``.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction: its shape {prediction.shape} is not the reference's {reference.shape}; compare maps on one grid")
    found = {}
    for value, name in sorted(classes.items()):
        here, there = prediction == value, reference == value
        total = int(here.sum()) + int(there.sum())
        both = int(np.logical_and(here, there).sum())
        found[name] = Overlap(2 * both / total if total else float("nan"), total == 0)
    return found


def case_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean Dice of a case over its classes, leaving out NaN; NaN where every class is empty."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mean_dice(scores: Mapping[str, Mapping[str, float | None]]) -> float:
    """Mean over cases of each case's mean over its classes (None is an empty class); 0 if no case has a figure."""
    table = np.array([[np.nan if dice is None else dice for dice in classes.values()] for classes in scores.values()], dtype=np.float64)
    means = case_mean(table)
    return float(np.nanmean(means)) if np.isfinite(means).any() else 0.0
