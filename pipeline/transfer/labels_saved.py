"""Labels saved: 1 - n*/n_all, where n* labels suffice for the mean Dice that scratch reaches with all n_all labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelsSaved:
    """``value`` is None if the curve never reaches the target; ``low`` or ``high`` is None where that end of the 95 % interval is "never".

    ``share_reached`` is the share of bootstrap draws that reach it. ``at_smallest``: reached by the smallest size already, so that the
    true saving may be larger.
    """

    value: float | None
    low: float | None
    high: float | None
    share_reached: float
    at_smallest: bool


def labels_saved(
    num_labels: Sequence[int], dice: np.ndarray, target: float, drawn_dice: np.ndarray, drawn_target: np.ndarray, num_all: int
) -> LabelsSaved:
    """num_labels (N,) ascending; dice (N,), target: the means; drawn_dice (draws, N), drawn_target (draws,): of each bootstrap draw."""
    reached = _first_reached(num_labels, np.asarray(dice, dtype=np.float64)[None], np.array([target]))[0]
    drawn = _first_reached(num_labels, drawn_dice, drawn_target)
    saved = np.where(np.isfinite(drawn), 1 - drawn / num_all, -np.inf)
    low, high = np.quantile(saved, [0.025, 0.975], method="nearest")
    value = 1 - reached / num_all if np.isfinite(reached) else None
    return LabelsSaved(
        value=None if value is None else float(value),
        low=_or_none(low),
        high=_or_none(high),
        share_reached=float(np.isfinite(drawn).mean()),
        at_smallest=bool(reached == num_labels[0]),
    )


def _first_reached(num_labels: Sequence[int], dice: np.ndarray, target: np.ndarray) -> np.ndarray:
    """dice (K, N), target (K,) -> (K,) number of labels at which the curve, linear in log2 n, first reaches it; infinity if never."""
    logs = np.log2(np.asarray(num_labels, dtype=np.float64))
    found = np.where(dice[:, 0] >= target, logs[0], np.inf)
    for left in range(len(logs) - 1):
        a, b = dice[:, left], dice[:, left + 1]
        crosses = ~np.isfinite(found) & (b >= target)
        rise = np.where(crosses, b - a, 1.0)
        here = logs[left] + (target - a) / rise * (logs[left + 1] - logs[left])
        found = np.where(crosses, here, found)
    return np.exp2(found)


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
