"""The verdict: every initialisation against training from scratch, as one table and what stands beside it.

``verdict.tsv`` has a row for each task, initialisation and number of labels, and a row ``primary`` for the one planned figure, the
mean Dice over the sizes up to ``verdict.primary_max_labels``:

task, initialisation; num_labels (a number or ``primary``); num_seeds (different ones); num_cases (test scans); dice_mean (over seeds
and subjects); diff_mean, ci_low, ci_high (difference to scratch at the same sizes, 95 % interval of the crossed bootstrap; empty for
scratch); p_raw (sign flips over subjects); p_holm (over all planned primary rows of the study, empty elsewhere); wins, ties, losses
(subjects); num_empty (case, class, seed without anything to overlap); pretrain_steps (with those of runs it continues, 0 from
scratch); finetune_steps (``primary``: of one seed, all its sizes together); planned (only such rows are confirmatory);
saw_test_subjects (a run that it starts from was shown test subjects, as the study allowed: no honest test); significant (p, corrected
where planned, is at most 0.05 and the interval leaves 0 out; empty for scratch).

Both are asked for because they answer unlike questions: the test holds the seeds that were run fixed, the interval draws seeds anew too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.transfer.cells import SCRATCH, primary_sizes
from pipeline.transfer.labels_saved import labels_saved
from pipeline.transfer.results import SizeResults
from pipeline.transfer.statistics import Resample, detectable_difference, holm, interval, sign_flip_test, smallest_p, wins_ties_losses

COLUMNS = (
    "task", "initialisation", "num_labels", "num_seeds", "num_cases", "dice_mean", "diff_mean", "ci_low", "ci_high", "p_raw", "p_holm",
    "wins", "ties", "losses", "num_empty", "pretrain_steps", "finetune_steps", "planned",
    "saw_test_subjects", "significant",
)  # fmt: skip
ALPHA = 0.05
Results = Mapping[int, SizeResults]


class TaskVerdict:
    """Figures of one task. ``results``: by initialisation and number of labels; scratch must be among them."""

    def __init__(self, results: Mapping[str, Results], draws: int, seed: int, primary_max_labels: int) -> None:
        if SCRATCH not in results:
            raise ValueError("initialisations: there are no results of scratch to compare with; fine-tune scratch on this task too")
        self.results, self.scratch, self.draws, self.seed, self.most = results, results[SCRATCH], draws, seed, primary_max_labels
        sized = [size for sizes in results.values() for size in sizes.values()]
        self.num_subjects = sized[0].table().shape[1]
        self.resample = Resample.draw([size.seeds for size in sized], self.num_subjects, draws, seed)

    def size(self, initialisation: str, number: int) -> dict[str, Any]:
        """Figures of one initialisation at one size."""
        own = self.results[initialisation][number]
        figures = self._figures(initialisation, (number,))
        return {**figures, "num_labels": number, "is_all": own.is_all, "learning_rate": own.learning_rate, "classes": own.classes}

    def primary(self, initialisation: str) -> dict[str, Any] | None:
        """The one figure of an initialisation that may be planned; None if it has no size small enough."""
        if not any(number <= self.most for number in self.results[initialisation]):
            return None
        numbers = primary_sizes(sorted(self.results[initialisation]), self.most, initialisation)
        return {**self._figures(initialisation, numbers), "num_labels": "primary", "sizes": list(numbers)}

    def saved(self, initialisation: str) -> dict[str, Any] | None:
        """Labels saved with their interval; None if scratch was not trained with all labels."""
        every = [size for size in self.scratch.values() if size.is_all]
        if not every or initialisation == SCRATCH:
            return None
        target, sizes = every[0], [size for _, size in sorted(self.results[initialisation].items())]
        dice = np.array([np.nanmean(_over_seeds(size.table())) for size in sizes])
        drawn = np.stack([self.resample.means(size.table(), size.seeds) for size in sizes], axis=1)
        found = labels_saved(
            [size.num_labels for size in sizes], dice, float(np.nanmean(_over_seeds(target.table()))), drawn,
            self.resample.means(target.table(), target.seeds), target.num_labels,
        )  # fmt: skip
        return vars(found)

    def _figures(self, initialisation: str, numbers: tuple[int, ...]) -> dict[str, Any]:
        own = [self.results[initialisation][number] for number in numbers]
        dice, dice_drawn = self._mean([size.table() for size in own], own)
        low, high = interval(dice_drawn)
        figures: dict[str, Any] = {
            "num_seeds": len({seed for size in own for seed in size.seeds}), "num_cases": len(own[0].dice),
            "dice_mean": float(np.nanmean(dice)), "dice_low": low, "dice_high": high,
            "num_empty": sum(size.num_empty for size in own), "finetune_steps": sum(size.steps for size in own),
        }  # fmt: skip
        if initialisation == SCRATCH:
            return figures
        missing = [number for number in numbers if number not in self.scratch]
        if missing:
            raise ValueError(f"initialisations.{initialisation}.num_labels: scratch has no size {missing[0]} to compare with; add it")
        differences, drawn = self._mean([size.against(self.scratch[size.num_labels]) for size in own], own)
        low, high = interval(drawn)
        wins, ties, losses = wins_ties_losses(differences)
        return {
            **figures, "diff_mean": float(np.nanmean(differences)), "ci_low": low, "ci_high": high,
            "p_raw": sign_flip_test(differences, self.draws, self.seed), "wins": wins, "ties": ties, "losses": losses,
            "smallest_p": smallest_p(int(np.isfinite(differences).sum()), self.draws),
            "detectable": detectable_difference(differences), "differences": differences,
        }  # fmt: skip

    def _mean(self, tables: list[np.ndarray], sizes: list[SizeResults]) -> tuple[np.ndarray, np.ndarray]:
        """((J,) by subject, (draws,) of the bootstrap): means over seeds within each size, then over sizes, all sizes counting alike."""
        subjects = np.stack([_over_seeds(table) for table in tables]).mean(axis=0)
        drawn = np.stack([self.resample.means(table, size.seeds) for table, size in zip(tables, sizes, strict=True)]).mean(axis=0)
        return subjects, drawn


def correct(primaries: list[dict[str, Any]]) -> None:
    """Adds Holm's p, and the difference detectable at the family's strictest level, to the planned primary figures.

    Where so few subjects were tested that no p can be small enough, nothing is detectable: None.
    """
    for figures, p in zip(primaries, holm([figures["p_raw"] for figures in primaries]), strict=True):
        figures["p_holm"] = p
        level = ALPHA / len(primaries)
        reachable = figures["smallest_p"] <= level
        figures["detectable_corrected"] = detectable_difference(figures["differences"], level) if reachable else None


def significant(figures: Mapping[str, Any]) -> bool | None:
    """Whether test and interval both find a difference to scratch; None where there is nothing to compare."""
    if figures.get("diff_mean") is None:
        return None
    return bool(_p(figures) <= ALPHA and not _holds_zero(figures))


def sentence(task: str, initialisation: str, figures: dict[str, Any], planned: bool, family: int) -> str:
    """What the primary figure says, in plain words."""
    sizes = ", ".join(str(number) for number in figures["sizes"])
    better = "above" if figures["diff_mean"] >= 0 else "below"
    p = _p(figures)
    how = f"p = {p:.3g} after Holm's correction over {family}" if planned else f"p = {p:.3g} uncorrected, exploratory"
    words = "significant" if significant(figures) else "NOT significant"
    if p <= ALPHA and _holds_zero(figures):
        words += ", since it may lie in the seeds: only with the seeds that were run does the test find it"
    detectable = figures["detectable_corrected"] if planned else figures["detectable"]
    power = (
        f"A difference of {detectable:.3f} would have been found with 80 % power."
        if detectable is not None and figures["smallest_p"] <= ALPHA
        else f"With so few test subjects no difference could be significant: the least p is {figures['smallest_p']:.2g} before correction."
    )
    return (
        f"{task}, {initialisation}: mean Dice over {sizes} labels is {figures['dice_mean']:.3f}, {abs(figures['diff_mean']):.3f} {better} "
        f"scratch (95 % interval {figures['ci_low']:+.3f} to {figures['ci_high']:+.3f}; {how}): {words}. {power}"
    )


def _p(figures: Mapping[str, Any]) -> float:
    """Corrected where the figure is planned."""
    return float(figures["p_holm"] if figures.get("p_holm") is not None else figures["p_raw"])


def _holds_zero(figures: Mapping[str, Any]) -> bool:
    return bool(figures["ci_low"] <= 0 <= figures["ci_high"])


def _over_seeds(table: np.ndarray) -> np.ndarray:
    """(S, J) -> (J,), NaN left out."""
    known = np.isfinite(table)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, table, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
