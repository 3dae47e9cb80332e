"""Statistics of paired comparisons: crossed bootstrap, sign-flip permutation test, Holm's correction, detectable difference.

A table of results is an array (S, J): a row a seed, a column a subject. NaN is a case without a figure (every structure empty).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

EXACT_SUBJECTS = 14  # 2^14 sign vectors are enumerated; more are drawn
TIE = 5e-7  # figures are stored with six digits


@dataclass(frozen=True)
class Resample:
    """Draws of a crossed bootstrap: how often each seed (draws, S) and each subject (draws, J) was drawn.

    Seeds and subjects are drawn independently, and one draw holds the same subjects for every seed, size and initialisation,
    since every seed scores the same subjects.
    """

    seeds: tuple[int, ...]
    seed_counts: np.ndarray
    subject_counts: np.ndarray

    @classmethod
    def draw(cls, seeds_of_sizes: Sequence[Sequence[int]], num_subjects: int, draws: int, seed: int) -> Resample:
        """``seeds_of_sizes``: the seeds that each size was run with. Seeds are drawn from their union; a draw that leaves a size
        without any seed is drawn again, since that size would have no figure."""
        if num_subjects < 1 or not seeds_of_sizes or not all(seeds_of_sizes):
            raise ValueError("the bootstrap needs at least one subject, and one seed for every size")
        generator = np.random.Generator(np.random.Philox(key=seed))
        union = tuple(sorted({number for seeds in seeds_of_sizes for number in seeds}))
        has = np.array([[number in seeds for number in union] for seeds in seeds_of_sizes], dtype=np.int64)
        counts = generator.multinomial(len(union), np.full(len(union), 1 / len(union)), size=draws)
        while (bad := (counts @ has.T == 0).any(axis=1)).any():
            counts[bad] = generator.multinomial(len(union), np.full(len(union), 1 / len(union)), size=int(bad.sum()))
        subjects = generator.multinomial(num_subjects, np.full(num_subjects, 1 / num_subjects), size=draws)
        return cls(union, counts.astype(np.float64), subjects.astype(np.float64))

    def means(self, table: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        """(draws,) mean of a table (S, J) whose rows are ``seeds``, in each draw; NaN where a draw holds no figure."""
        rows = self.seed_counts[:, [self.seeds.index(seed) for seed in seeds]]
        known = np.isfinite(table)
        total = (rows @ np.where(known, table, 0.0) * self.subject_counts).sum(axis=1)
        weight = (rows @ known.astype(np.float64) * self.subject_counts).sum(axis=1)
        return np.where(weight > 0, total / np.maximum(weight, 1), np.nan)


def interval(drawn: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap draws; draws without a figure are left out."""
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired(own: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> np.ndarray:
    """Differences own - other of (S,) figures by case, as (S, cases) in the order of ``own``; unequal case lists are a ``ValueError``."""
    if set(own) != set(other):
        odd = sorted(set(own) ^ set(other))
        raise ValueError(
            f"cases: {len(odd)} cases, such as {odd[0]}, are in one of the two lists only; fine-tune both on the same manifest"
        )
    for name in own:
        if np.shape(own[name]) != np.shape(other[name]):
            raise ValueError(f"cases: {name} has unequal numbers of seeds in the two lists; fine-tune both with the same seeds")
    return np.stack([np.asarray(own[name]) - np.asarray(other[name]) for name in own], axis=1)


def sign_flip_test(differences: np.ndarray, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of "the mean difference is 0", under which each subject's sign is as likely to be the other one.

    differences (J,): one a subject, the mean over seeds; NaN is left out. Up to 14 subjects every sign vector is enumerated and p is
    exact; else signs are drawn, and the observed vector counts as one more draw (Phipson and Smyth 2010): p is never 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan")
    observed = abs(values.sum())
    reach = observed - 1e-9 * max(observed, float(np.abs(values).max()))  # equal sums differ by rounding
    if len(values) <= EXACT_SUBJECTS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
        return float((np.abs(signs @ values) >= reach).mean())
    generator = np.random.Generator(np.random.Philox(key=seed))
    hits = 0
    for first in range(0, draws, 4096):
        signs = generator.integers(0, 2, size=(min(4096, draws - first), len(values))) * 2.0 - 1.0
        hits += int((np.abs(signs @ values) >= reach).sum())
    return (1 + hits) / (1 + draws)


def smallest_p(num_subjects: int, draws: int) -> float:
    """What ``sign_flip_test`` gives when every subject's difference has the same sign and size."""
    return 2.0 ** (1 - num_subjects) if num_subjects <= EXACT_SUBJECTS else 1 / (1 + draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family (Holm 1979), in the order given: reject those at most alpha."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    found = np.empty(len(p))
    found[order] = adjusted
    return [float(value) for value in found]


def wins_ties_losses(differences: np.ndarray) -> tuple[int, int, int]:
    """Subjects whose difference (J,) is above, at, below 0; NaN is none of them."""
    values = differences[np.isfinite(differences)]
    return int((values > TIE).sum()), int((np.abs(values) <= TIE).sum()), int((values < -TIE).sum())


def detectable_difference(differences: np.ndarray, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest mean difference that a two-sided paired test at ``alpha`` finds with this power, from the spread seen over subjects (J,).

    (t(1 - alpha/2) + t(power)) sd / sqrt(J), Student's t with J - 1 degrees of freedom. NaN below two subjects.
    """
    values = differences[np.isfinite(differences)]
    count = len(values)
    if count < 2:
        return float("nan")
    reach = stats.t.ppf(1 - alpha / 2, count - 1) + stats.t.ppf(power, count - 1)
    return float(reach * values.std(ddof=1) / np.sqrt(count))
