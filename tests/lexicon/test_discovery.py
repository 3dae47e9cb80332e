"""Discovery on phantoms whose true correspondence is known."""

from dataclasses import replace

import numpy as np
import pytest

from anatomy.body import from_body
from pipeline.lexicon.discovery import Search, discover, nearest
from pipeline.lexicon.figures import lexicon_figures, pairs_apart, word_errors
from pipeline.lexicon.matching import Sampler, correlate, find_place
from pipeline.lexicon.table import COLUMNS, merge_lexicons, read_lexicon, write_lexicon
from pipeline.manifest import grid_of

SEARCH = Search(num_words=6, sizes_vox=((14, 14, 14), (12, 12, 12)), neighbours=0.6, min_confidence=0.0, seed=0)


@pytest.fixture(scope="session")
def found(cohort, embeddings):
    """Lexicon, words, number of instances left out."""
    store, rows, _ = cohort
    return discover(rows, embeddings, store, SEARCH)


def truth_of(phantoms):
    return lambda row, places: phantoms[row["scan_id"]].template(places)


def test_places_found_are_nearer_to_the_truth_than_equal_indices_and_than_body_coordinates(cohort, found):
    _, rows, phantoms = cohort
    table, words, _ = found
    errors = word_errors(table, rows, words, truth_of(phantoms))
    assert errors["word_error_mm"] < 0.6 * errors["body_error_mm"]
    assert errors["body_error_mm"] < errors["index_error_mm"]
    assert errors["word_error_mm"] < 1.0
    assert errors["instances_with_truth"] == len(table) - len(words)
    assert word_errors(table, rows, words, lambda row, places: None) == {}


def test_every_word_has_its_neighbours_a_reference_of_its_own_and_held_out_subjects(cohort, found):
    table, words, dropped = found
    assert len({word.reference["scan_id"] for word in words}) == 6
    assert len(table) + dropped == 6 * (4 + 2)  # of 6 training and 2 validation scans, 60 %, rounded up
    assert set(table["split"]) == {"train", "validation"}
    assert table["confidence"].between(0, 1).all()
    for word in words:
        own = table[(table["word_id"] == word.word_id) & (table["scan_id"] == word.reference["scan_id"])].iloc[0]
        assert own["confidence"] == 1.0
        np.testing.assert_allclose(own[["x_mm", "y_mm", "z_mm"]].astype(float), word.place_mm, atol=1e-3)
        place = from_body(word.body, word.reference["body_low_mm"], word.reference["body_high_mm"])
        np.testing.assert_allclose(place, word.place_mm)
    assert sorted(set(table["size_mm"])) == [12.0, 14.0]


def test_crops_of_two_words_of_a_scan_overlap_by_less_than_half(cohort, found):
    store, rows, _ = cohort
    table, words, _ = found
    assert pairs_apart(table, rows, words) == 1.0
    close = table.assign(x_mm=table.groupby("scan_id")["x_mm"].transform("first"))
    close = close.assign(y_mm=table.groupby("scan_id")["y_mm"].transform("first"), z_mm=table.groupby("scan_id")["z_mm"].transform("first"))
    assert pairs_apart(close, rows, words) == 0.0
    figures = lexicon_figures(table, rows, words, store)
    assert figures["correlation_within"] > figures["correlation_between"] + 0.3
    assert figures["purity"] > 0.8
    scrambled = table.assign(word_id=np.random.default_rng(0).permutation(table["word_id"]))
    assert lexicon_figures(scrambled, rows, words, store)["purity"] < 0.6


def test_equal_seeds_give_equal_lexicons_and_others_others(cohort, embeddings, found, tmp_path):
    store, rows, _ = cohort
    again = discover(rows, embeddings, store, SEARCH)[0]
    write_lexicon(found[0], tmp_path / "a.parquet")
    write_lexicon(again, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    other = discover(rows, embeddings, store, replace(SEARCH, seed=1, num_words=2))[0]
    assert not again.loc[again["word_id"] < 2, "x_mm"].reset_index(drop=True).equals(other["x_mm"])


def test_more_words_than_scans_use_references_again(cohort, embeddings):
    store, rows, _ = cohort
    table, words, _ = discover(rows, embeddings, store, replace(SEARCH, num_words=8, sizes_vox=((9, 9, 9),)))
    references = [word.reference["scan_id"] for word in words]
    assert len(set(references[:6])) == 6
    assert len(set(references)) == 6
    assert table["word_id"].nunique() == 8


def test_what_cannot_be_found_is_refused_with_a_remedy(cohort, embeddings):
    store, rows, _ = cohort
    with pytest.raises(ValueError, match=r"words\.num_words: only \d+ of 60 words"):
        discover(rows, embeddings, store, replace(SEARCH, num_words=60, sizes_vox=((24, 24, 24),)))
    with pytest.raises(ValueError, match=r"words\.sizes_vox: no scan can hold a word of 80 x 80 x 80 mm"):
        discover(rows, embeddings, store, replace(SEARCH, sizes_vox=((80, 80, 80),)))
    with pytest.raises(ValueError, match=r"fewer than 2 training scans; ask for"):
        discover(rows, embeddings, store, replace(SEARCH, min_confidence=0.999))
    with pytest.raises(ValueError, match=r"there are 1 training scans"):
        discover(rows.iloc[[0, 7]].reset_index(drop=True), embeddings[[0, 7]], store, SEARCH)


def test_min_confidence_leaves_instances_out(cohort, embeddings, found):
    store, rows, _ = cohort
    limit = sorted(found[0]["confidence"])[2]
    table = discover(rows, embeddings, store, replace(SEARCH, min_confidence=limit))[0]
    assert table["confidence"].min() >= limit
    assert len(table) == len(found[0]) - 2


def test_neighbours_are_the_most_alike_rounded_up():
    likeness = np.array([0.1, 0.9, 0.5, 1.0, -0.2])
    assert nearest(likeness, np.array([0, 1, 2, 3]), 0.5) == [3, 1]
    assert nearest(likeness, np.array([0, 1, 4]), 0.5) == [1, 0]
    assert nearest(likeness, np.array([], dtype=int), 0.5) == []


def test_a_sampler_reads_stored_values_in_millimetres(cohort):
    store, rows, _ = cohort
    row = rows.iloc[0].to_dict()
    voxels, grid = store.read(row["scan_id"])[0], grid_of(row)
    sampled = Sampler(store, row)(grid.world(np.array([20.0, 18.0, 15.0])), np.ones(3), (3, 3, 3))[0].numpy()
    np.testing.assert_allclose(sampled, np.clip(voxels[19:22, 17:20, 14:17] / 1000, 0, 1), atol=1e-5)
    halfway = Sampler(store, row)(grid.world(np.array([20.5, 18.0, 15.0])), np.ones(3), (1, 1, 1))[0, 0, 0, 0]
    assert float(halfway) == pytest.approx(voxels[20:22, 18, 15].clip(0, 1000).mean() / 1000, abs=1e-5)


def test_correlation_is_one_for_other_brightness_and_zero_where_nothing_varies(cohort):
    store, rows, _ = cohort
    row = rows.iloc[0].to_dict()
    block = Sampler(store, row)(grid_of(row).world(np.array([20.0, 18.0, 15.0])), np.ones(3), (12, 12, 12))
    assert float(correlate(block, 0.3 * block + 0.2)) == pytest.approx(1.0, abs=1e-2)
    assert float(correlate(block, 0.7 - block)) == pytest.approx(-1.0, abs=1e-2)
    assert float(correlate(block, block * 0 + 0.4)) == pytest.approx(0.0, abs=1e-3)


def test_a_place_that_was_moved_is_found_again_and_one_without_features_stays(cohort):
    store, rows, _ = cohort
    row = rows.iloc[0].to_dict()
    sampler, edges = Sampler(store, row), np.full(3, 14.0)
    place = np.asarray(row["body_low_mm"]) + np.array([16.0, 18.0, 15.0])
    found, correlation = find_place(sampler, place, sampler, place + np.array([2.0, -2.5, 1.3]), edges)
    np.testing.assert_allclose(found, place, atol=0.3)
    assert correlation > 0.98
    empty = np.asarray(row["body_low_mm"]) - 60.0
    stayed, correlation = find_place(sampler, place, sampler, empty, edges)
    np.testing.assert_allclose(stayed, empty)
    assert correlation == pytest.approx(0.0, abs=1e-3)


def test_the_table_keeps_its_columns_and_refuses_what_cannot_be(found, tmp_path):
    table = found[0]
    path = tmp_path / "words.parquet"
    write_lexicon(table.assign(extra=1), path)
    assert tuple(read_lexicon(path).columns) == COLUMNS
    with pytest.raises(ValueError, match="there is no lexicon"):
        read_lexicon(tmp_path / "absent.parquet")
    wrong = {
        "lacks the columns size_mm": table.drop(columns="size_mm"),
        "word_id: must count": table[table["word_id"] != 1],
        "confidence: must lie": table.assign(confidence=1.5),
        "places must be finite": table.assign(x_mm=np.nan),
        "split: is test": table.assign(split="test"),
        "the same word twice": table.iloc[[0, *range(len(table))]],
    }
    for message, broken in wrong.items():
        broken.to_parquet(path)
        with pytest.raises(ValueError, match=message):
            read_lexicon(path)


def test_merging_names_each_lexicon(found, tmp_path):
    for name in ("b", "a"):
        write_lexicon(found[0], tmp_path / f"{name}.parquet")
    merged = merge_lexicons({name: tmp_path / f"{name}.parquet" for name in ("b", "a")}, tmp_path / "all.parquet")
    assert merged["lexicon"].drop_duplicates().tolist() == ["a", "b"]
    assert len(merged) == 2 * len(found[0])
    assert list(merge_lexicons({}, tmp_path / "none.parquet").columns) == [*COLUMNS, "lexicon"]
