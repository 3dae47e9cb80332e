"""Overlap of crops, places that keep apart, instances that stay."""

import numpy as np
import pytest

from anatomy.words import choose_places, crop_low, overlap, overlaps, surest_apart


def voxels(low, size, extent=40):
    grid = np.zeros((extent,) * 3, bool)
    grid[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = True
    return grid


def test_overlap_is_the_share_of_the_smaller_crops_voxels_that_both_hold():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        size_a, size_b = rng.integers(2, 14, 3), rng.integers(2, 14, 3)
        low_a, low_b = rng.integers(5, 20, 3), rng.integers(5, 20, 3)
        a, b = voxels(low_a, size_a), voxels(low_b, size_b)
        expected = (a & b).sum() / min(a.sum(), b.sum())
        assert overlap(low_a + size_a / 2, size_a, low_b + size_b / 2, size_b) == pytest.approx(expected)
        seen.add(0 < expected < 1)
    assert seen == {True, False}


def test_a_crop_in_a_crop_overlaps_wholly_and_pairs_are_symmetric():
    assert overlap((5, 5, 5), (8, 8, 8), (5, 6, 5), (2, 2, 2)) == 1.0
    rng = np.random.default_rng(1)
    shared = overlaps(rng.uniform(0, 20, (6, 3)), rng.uniform(4, 12, (6, 3)))
    np.testing.assert_allclose(shared, shared.T)
    np.testing.assert_allclose(np.diag(shared), 1.0)


def test_a_crop_stays_inside_its_volume_and_is_centred_where_that_is_too_small():
    np.testing.assert_array_equal(crop_low((1.2, 15.0, 29.0), (8, 8, 8), (30, 30, 30)), (0, 11, 22))
    np.testing.assert_array_equal(crop_low((4, 1, 3), (8, 8, 8), (6, 20, 8)), (-1, 0, 0))


def places(number, count, extent, seed=0):
    return [np.random.default_rng(seed + word).uniform(0, extent, (count, 3)) for word in range(number)]


def test_chosen_places_keep_apart_and_tight_space_is_packed():
    for number, extent in ((5, 40.0), (20, 20.0)):
        candidates, sizes = places(number, 400, extent), np.full((number, 3), 16.0)
        chosen = choose_places(candidates, sizes, (1, 8, 400))
        centres = np.stack([candidates[word][place] for word, place in enumerate(chosen)])
        shared = overlaps(centres, sizes)[~np.eye(number, dtype=bool)]
        assert shared.max() < 0.5
    assert choose_places(places(5, 400, 200.0), np.full((5, 3), 4.0), (1,)) == [0] * 5  # far apart: the first draw is taken


def test_more_words_than_the_body_holds_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"words\.num_words: only \d+ of 40 words.*smaller words\.sizes_vox"):
        choose_places(places(40, 200, 6.0), np.full((40, 3), 16.0), (1, 200))


def test_of_two_instances_that_overlap_the_surer_one_stays():
    centres = np.array([[0.0, 0, 0], [2, 0, 0], [20, 0, 0], [22, 0, 0], [40, 0, 0]])
    keep = surest_apart(centres, np.full((5, 3), 8.0), np.array([0.3, 0.9, 0.8, 0.2, 0.1]))
    assert keep.tolist() == [False, True, True, False, True]
