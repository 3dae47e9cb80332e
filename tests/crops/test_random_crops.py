"""Crops at random places: pure, in the body, every scan equally often, and several of one place where a recipe asks for that."""

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.keys import key, uniform
from pipeline.plugins import load, settings

SHAPE = (60, 50, 70)
SIZE = (16, 12, 20)


def make(count=4, seed=0, **values):
    affine = np.diag([2.0, 2.0, 2.0, 1.0]).ravel().tolist()
    rows = [{"scan_id": f"s{n}", "shape": list(SHAPE), "affine": affine, "body_low_mm": [20.0, 16.0, 24.0],
             "body_high_mm": [90.0, 80.0, 120.0]} for n in range(count)]  # fmt: skip
    return load("crops", "random")(settings("crops", "random", {"size_vox": SIZE, **values}), pd.DataFrame(rows), None, seed)


def centres(crops, samples):
    return np.array([crops.draw(sample).centre_vox for sample in samples])


def test_one_crop_a_read_is_what_it_was_before_there_were_several():
    """The centre as it was drawn before ``per_read``: three numbers of one key, stretched over the body's box."""
    crops = make(seed=5)
    low, high = np.array([10, 8, 12]), np.array([45, 40, 60])
    half = np.array(SIZE) // 2
    for sample in range(200):
        drawn = uniform(torch.tensor([key(5, "centre", sample)]), 3)[0].numpy()
        expected = np.clip(np.floor(low + drawn * (high - low + 1)).astype(int), half, np.array(SHAPE) - half)
        assert crops.draw(sample).centre_vox == tuple(expected)
        assert crops.draw(sample).row == crops.order(sample)
        assert crops.draw(sample) == make(seed=5, per_read=1, reach_vox=99).draw(sample)


def test_crops_of_one_read_lie_in_one_scan_and_within_reach_of_each_other():
    crops = make(per_read=4, reach_vox=8)
    reads = [[crops.draw(4 * read + member) for member in range(4)] for read in range(200)]
    assert all(len({crop.row for crop in read}) == 1 for read in reads)
    spans = np.array([np.ptp([crop.centre_vox for crop in read], axis=0) for read in reads])
    assert spans.max() == 8
    assert 3 < spans.mean() < 6  # four uniform numbers of 0 to 8 span 3/5 of it
    assert reads[0] == [make(per_read=4, reach_vox=8).draw(member) for member in range(4)]
    assert len({crop.centre_vox for crop in reads[0]}) > 1


@pytest.mark.parametrize("per_read", [1, 3])
def test_every_scan_comes_equally_often_and_centres_fill_the_body_evenly(per_read):
    crops = make(per_read=per_read)
    drawn = [crops.draw(sample) for sample in range(1200)]
    assert [sum(crop.row == row for crop in drawn) for row in range(4)] == [300] * 4
    places = np.array([crop.centre_vox for crop in drawn])
    assert (places.min(0) >= [10, 8, 12]).all()
    assert (places.max(0) <= [45, 40, 60]).all()
    counts = np.histogram(places[:, 2], bins=np.linspace(12, 61, 8))[0]
    # Members that would leave the body are moved to its border: the outermost seventh may hold a little more.
    assert counts.min() > 0.7 * 1200 / 7
    assert counts.max() < 1.4 * 1200 / 7
