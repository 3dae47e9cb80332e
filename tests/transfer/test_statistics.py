"""Intervals that cover, tests that enumerate, a correction known from the literature."""

import itertools

import numpy as np
import pytest
from scipy import stats

from pipeline.transfer.statistics import (
    Resample,
    detectable_difference,
    holm,
    interval,
    paired,
    sign_flip_test,
    smallest_p,
    wins_ties_losses,
)  # fmt: skip


def test_a_draw_of_the_bootstrap_is_the_mean_of_the_drawn_rows_and_columns():
    table = np.array([[1.0, 2.0, 4.0], [3.0, 5.0, np.nan]])
    resample = Resample.draw([[7, 9]], 3, 50, seed=1)
    means = resample.means(table, [7, 9])
    for draw in range(50):
        rows = np.repeat([0, 1], resample.seed_counts[draw].astype(int))
        columns = np.repeat([0, 1, 2], resample.subject_counts[draw].astype(int))
        assert (len(rows), len(columns)) == (2, 3)
        values = table[np.ix_(rows, columns)]
        if np.isfinite(values).any():
            assert means[draw] == pytest.approx(np.nanmean(values))
        else:
            assert np.isnan(means[draw])


def test_every_size_keeps_a_seed_in_every_draw_though_it_was_run_with_fewer():
    resample = Resample.draw([[0, 1, 2, 3, 4], [0, 1]], 4, 2000, seed=0)
    assert (resample.seed_counts[:, :2].sum(axis=1) > 0).all()
    assert (resample.seed_counts.sum(axis=1) == 5).all()
    assert np.isfinite(resample.means(np.ones((2, 4)), [0, 1])).all()


def test_draws_are_a_function_of_the_seed():
    first, again, other = (Resample.draw([[0, 1, 2]], 10, 20, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.subject_counts, again.subject_counts)
    assert np.array_equal(first.seed_counts, again.seed_counts)
    assert not np.array_equal(first.subject_counts, other.subject_counts)


def test_the_crossed_interval_covers_the_truth_where_subjects_dominate():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        table = 0.02 + 0.05 * generator.standard_normal(40) + 0.005 * generator.standard_normal((5, 1))
        table = table + 0.01 * generator.standard_normal((5, 40))
        low, high = interval(Resample.draw([range(5)], 40, 500, trial).means(table, range(5)))
        covered += low <= 0.02 <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_resampling_subjects_alone_would_cover_too_little_where_seeds_vary():
    generator = np.random.default_rng(1)
    crossed = fixed = 0
    for trial in range(100):
        table = 0.02 * generator.standard_normal((8, 1)) + 0.01 * generator.standard_normal((8, 40))
        resample = Resample.draw([range(8)], 40, 400, trial)
        low, high = interval(resample.means(table, range(8)))
        crossed += low <= 0 <= high
        low, high = interval(Resample.draw([[0]], 40, 400, trial).means(table.mean(axis=0)[None], [0]))
        fixed += low <= 0 <= high
    assert crossed > 80 > fixed


def test_few_subjects_are_enumerated():
    differences = np.array([0.3, -0.1, 0.2, 0.05])
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in itertools.product((1, -1), repeat=4)]
    expected = sum(value >= abs(differences.sum()) - 1e-12 for value in sums) / 16
    assert sign_flip_test(differences) == expected
    assert sign_flip_test(np.array([1.0, 1.0, 1.0])) == 2 / 8
    assert sign_flip_test(np.array([1.0, np.nan, 1.0, 1.0])) == 2 / 8
    assert sign_flip_test(np.zeros(5)) == 1.0


def test_many_subjects_agree_with_scipy_and_never_give_zero():
    differences = np.random.default_rng(3).normal(0.02, 0.06, 30)
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0).pvalue
    assert sign_flip_test(differences, draws=20_000, seed=1) == pytest.approx(expected, abs=0.015)
    assert sign_flip_test(np.ones(40), draws=1000) == 1 / 1001
    assert sign_flip_test(differences, 1000, 4) == sign_flip_test(differences, 1000, 4)


def test_the_sign_flip_test_keeps_its_level():
    generator = np.random.default_rng(2)
    rejected = [sign_flip_test(generator.standard_normal(20), draws=400, seed=trial) <= 0.05 for trial in range(400)]
    assert 0.025 <= np.mean(rejected) <= 0.08


def test_holm_gives_the_known_adjustment():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_unequal_case_lists_are_refused():
    with pytest.raises(ValueError, match="such as b"):
        paired({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2)})
    with pytest.raises(ValueError, match="numbers of seeds"):
        paired({"a": np.ones(2)}, {"a": np.ones(3)})
    assert paired({"a": np.array([0.5, 0.75])}, {"a": np.array([0.25, 1.0])}).tolist() == [[0.25], [-0.25]]


def test_the_smallest_p_is_that_of_a_unanimous_outcome():
    for count in (3, 6, 20):
        assert smallest_p(count, 500) == pytest.approx(sign_flip_test(np.ones(count), draws=500), rel=0.01)


def test_wins_ties_and_losses_count_subjects():
    assert wins_ties_losses(np.array([0.2, -0.1, 0.0, 1e-7, np.nan, 0.3])) == (2, 2, 1)


def test_the_detectable_difference_is_found_in_four_of_five_studies():
    generator = np.random.default_rng(4)
    effect = detectable_difference(generator.normal(0, 0.05, 40_000)) * np.sqrt(40_000 / 40)
    found = [stats.ttest_1samp(generator.normal(effect, 0.05, 40), 0).pvalue <= 0.05 for _ in range(1000)]
    assert 0.75 <= np.mean(found) <= 0.85
    assert detectable_difference(np.array([1.0, 3.0]), alpha=0.05, power=0.5) == pytest.approx(12.7062, rel=1e-4)
    assert np.isnan(detectable_difference(np.array([1.0])))
