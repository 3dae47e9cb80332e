"""Dice on masks small enough to count by hand."""

import math

import numpy as np
import pytest

from pipeline.transfer.metrics import case_mean, overlaps

CLASSES = {1: "anterior", 2: "posterior"}


def row(*values):
    return np.array(values, dtype=np.uint8).reshape(1, 1, -1)


def test_dice_is_twice_the_overlap_over_both_sizes():
    found = overlaps(row(1, 1, 1, 0, 2, 2), row(0, 1, 1, 1, 1, 2), CLASSES)
    assert found["anterior"].dice == pytest.approx(2 * 2 / (3 + 4))
    assert found["posterior"].dice == pytest.approx(2 * 1 / (2 + 1))
    assert not found["anterior"].empty


def test_a_class_empty_in_both_is_nan_and_counted_and_empty_in_one_is_zero():
    both = overlaps(row(1, 0), row(1, 0), CLASSES)["posterior"]
    assert math.isnan(both.dice)
    assert both.empty
    for prediction, reference in ((row(2, 0), row(0, 0)), (row(0, 0), row(2, 0))):
        one = overlaps(prediction, reference, CLASSES)["posterior"]
        assert (one.dice, one.empty) == (0.0, False)


def test_two_cubes_shifted_by_one_voxel_overlap_in_two_thirds():
    low, high = np.zeros((6, 6, 6), np.uint8), np.zeros((6, 6, 6), np.uint8)
    low[1:4, 1:4, 1:4] = high[2:5, 1:4, 1:4] = 1
    assert overlaps(low, high, {1: "cube"})["cube"].dice == pytest.approx(2 * 18 / 54)


def test_maps_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        overlaps(row(1, 0), row(1, 0, 0), CLASSES)


def test_a_case_is_the_mean_over_its_classes_that_exist():
    means = case_mean(np.array([[0.8, np.nan], [0.5, 0.7], [np.nan, np.nan]]))
    assert means[:2] == pytest.approx([0.8, 0.6])
    assert math.isnan(means[2])
