"""Where a curve over the number of labels first reaches scratch's mean with all labels."""

import numpy as np
import pytest

from pipeline.transfer.labels_saved import labels_saved

SIZES = (1, 4, 16, 64)


def saved(dice, target, drawn=None, targets=None):
    dice = np.array(dice)
    drawn = dice[None].repeat(5, 0) if drawn is None else np.array(drawn)
    targets = np.full(len(drawn), target) if targets is None else np.array(targets)
    return labels_saved(SIZES, dice, target, drawn, targets, num_all=64)


def test_the_crossing_is_linear_in_the_logarithm_of_the_number_of_labels():
    found = saved([0.5, 0.6, 0.8, 0.9], target=0.7)
    assert found.value == pytest.approx(1 - 8 / 64)
    assert (found.low, found.high, found.share_reached) == (pytest.approx(0.875), pytest.approx(0.875), 1.0)


def test_the_first_crossing_counts_and_the_ends_are_said():
    assert saved([0.5, 0.8, 0.6, 0.9], target=0.8).value == pytest.approx(1 - 4 / 64)
    assert saved([0.8, 0.5, 0.6, 0.9], target=0.7).at_smallest
    assert saved([0.8, 0.5, 0.6, 0.9], target=0.7).value == pytest.approx(1 - 1 / 64)
    assert saved([0.5, 0.6, 0.7, 0.9], target=0.9).value == 0.0


def test_a_curve_that_never_reaches_it_saves_none():
    found = saved([0.5, 0.6, 0.7, 0.8], target=0.9)
    assert (found.value, found.low, found.high, found.share_reached) == (None, None, None, 0.0)


def test_draws_that_never_reach_it_pull_the_lower_end_to_none():
    reaches, fails = [0.5, 0.6, 0.8, 0.9], [0.1, 0.2, 0.3, 0.4]
    found = saved(reaches, 0.7, drawn=[reaches] * 8 + [fails] * 2)
    assert found.low is None
    assert found.high == pytest.approx(0.875)
    assert found.share_reached == pytest.approx(0.8)


def test_each_draw_has_a_target_of_its_own():
    found = saved([0.5, 0.6, 0.8, 0.9], 0.7, drawn=[[0.5, 0.6, 0.8, 0.9]] * 2, targets=[0.6, 0.8])
    assert (found.low, found.high) == (pytest.approx(1 - 16 / 64), pytest.approx(1 - 4 / 64))
