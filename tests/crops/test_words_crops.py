"""Crops at words: pure, balanced over words, of the right place and size."""

import numpy as np
import pandas as pd
import pytest

from pipeline.plugins import load, settings

SHAPE = (40, 50, 40)


def make_rows(number=6, spacing=1.0):
    affine = np.diag([spacing, spacing, spacing, 1.0]).ravel().tolist()
    return pd.DataFrame([{"scan_id": f"s{n}", "shape": list(SHAPE), "affine": affine} for n in range(number)])


def make_lexicon():
    """Word 0 in scans 0 to 3, word 2 in scans 0 and 1 (8 mm beside it), word 5 in scan 4 only; half as large."""
    rows = [(0, f"s{n}", 20.0, 25.0, 20.0, 16.0, 1.0 if n else 0.1, "train") for n in range(4)]
    rows += [(2, f"s{n}", 26.0, 25.0, 20.0, 16.0, 0.5, "train") for n in range(2)]
    rows += [(5, "s4", 1.0, 2.0, 3.0, 8.0, 0.5, "train")]
    return pd.DataFrame(rows, columns=["word_id", "scan_id", "x_mm", "y_mm", "z_mm", "size_mm", "confidence", "split"])


def make(rows=None, lexicon=None, seed=0, **values):
    config = settings("crops", "words", {"size_vox": [16, 16, 16], **values})
    return load("crops", "words")(config, make_rows() if rows is None else rows, make_lexicon() if lexicon is None else lexicon, seed)


def test_a_draw_is_a_pure_function_of_seed_and_sample():
    forwards, backwards = make(), make()
    first = [forwards.draw(sample) for sample in range(30)]
    assert first == [backwards.draw(sample) for sample in reversed(range(30))][::-1]
    assert first != [make(seed=1).draw(sample) for sample in range(30)]


def test_every_word_comes_as_often_as_any_other_and_surer_instances_more_often():
    drawn = [make_crop.words[0][0] for make_crop in map(make().draw, range(300))]
    assert [drawn.count(word) for word in (0, 2, 5)] == [100, 100, 100]
    assert all(set(drawn[start : start + 3]) == {0, 2, 5} for start in range(0, 300, 3))
    crops = make()
    rows = [crop.row for crop in map(crops.draw, range(900)) if crop.words[0][0] == 0]
    assert set(rows) == {0, 1, 2, 3}
    assert rows.count(0) < rows.count(1) / 2


def test_an_exact_crop_lies_at_its_word_and_names_the_others_in_reach():
    crops = make(exact=1.0)
    by_word = {crop.words[0][0]: crop for crop in map(crops.draw, range(60)) if crop.row in (0, 1, 4)}
    assert by_word[0].centre_vox == (20, 25, 20)
    assert by_word[0].read_vox == (16, 16, 16)
    assert [word[0] for word in by_word[0].words] == [0, 2]
    assert [word[0] for word in by_word[2].words] == [2, 0]
    assert by_word[5].read_vox == (8, 8, 8)  # its own size, and moved into the volume
    assert by_word[5].centre_vox == (4, 4, 4)


def test_a_words_size_is_in_millimetres_and_its_shape_that_of_the_networks_crop():
    crops = make(rows=make_rows(spacing=0.5), exact=1.0, size_vox=[8, 16, 32])
    crop = next(crop for crop in map(crops.draw, range(60)) if crop.words[0][0] == 0)
    assert crop.read_vox == (16, 32, 64)
    assert np.cbrt(np.prod(crop.read_vox)) * 0.5 == pytest.approx(16.0)


def test_other_crops_move_and_scale_within_their_bounds():
    crops = make(exact=0.0, shift=0.25, scale=[0.5, 1.5])
    drawn = [crop for crop in map(crops.draw, range(600)) if crop.words[0][0] == 0]
    moved = np.array([np.subtract(crop.centre_vox, (20, 25, 20)) for crop in drawn])
    edges = np.array([crop.read_vox for crop in drawn])
    assert (edges == edges[:, :1]).all()
    assert edges.min() >= 8
    assert edges.max() <= 24
    assert len(set(edges[:, 0])) > 10
    assert np.abs(moved).max() <= 4
    assert (np.abs(moved).max(0) >= 3).all()


def test_scans_without_words_are_refused_by_name_and_only_known_scans_are_drawn():
    with pytest.raises(ValueError, match="no word in any of these scans"):
        make(rows=make_rows().assign(scan_id=[f"other{n}" for n in range(6)]))
    with pytest.raises(ValueError, match=r"crops\.words: the run has no lexicon"):
        load("crops", "words")(settings("crops", "words", {"size_vox": [8, 8, 8]}), make_rows(), None, 0)
    crops = make(rows=make_rows().iloc[[0, 5]])
    assert {crop.row for crop in map(crops.draw, range(20))} == {0}
    assert {crop.words[0][0] for crop in map(crops.draw, range(20))} == {0, 2}
