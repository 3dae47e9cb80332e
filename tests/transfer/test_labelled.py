"""Which labelled scans are given out, and that crops and augmentation are the same for every initialisation."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.manifest import read_manifest
from pipeline.plugins import load, settings
from pipeline.step import Context
from pipeline.transfer.batches import AT_STRUCTURE, Batches, brightened
from pipeline.transfer.labelled import LabelledVolumes, data_digest, labelled_scans, subset
from pipeline.volumes.store import Store

SIZE = (16, 32, 16)  # the second axis is longer than the volumes


@pytest.fixture
def volumes(tiny):
    _, where = tiny
    classes = settings("tasks", "segmentation", {"classes": {1: "grey", 2: "white"}})
    kind = load("tasks", "segmentation")(classes, Context(1, 1, 1, SIZE, 1))
    rows = labelled_scans(read_manifest(where.manifest), "tissue")["train"]
    return lambda **changes: LabelledVolumes(Store(where.store), "tissue", kind, rows, **changes)


def test_a_smaller_set_of_labels_lies_within_a_larger_one():
    scans = [f"s{number:02d}" for number in range(30)]
    orders = [subset(scans, 30, seed) for seed in range(3)]
    assert all(subset(scans, count, 1) == orders[1][:count] for count in range(1, 30))
    assert orders[0] != orders[1]
    assert subset([*scans, "new"], 31, 0)[:1] in (orders[0][:1], ["new"])
    assert subset(scans[::-1], 5, 2) == orders[2][:5]


def test_scans_without_labels_and_repeated_scans_are_left_out(tiny):
    frame = read_manifest(tiny[1].manifest)
    frame.loc[frame["scan_id"] == "a1", "labels"] = json.dumps({"other": [1]})
    frame.loc[frame["scan_id"] == "a2", "twin_of"] = "a0"
    frame.loc[frame["scan_id"] == "a3", "twin_of"] = "gone"
    assert labelled_scans(frame, "tissue")["train"]["scan_id"].tolist() == ["a0", "a3"]
    with pytest.raises(ValueError, match="validation split has labels"):
        labelled_scans(frame[frame["split"] != "validation"], "tissue")


def test_crops_from_memory_equal_crops_from_the_store(volumes):
    kept, read = volumes(), volumes(cache_bytes=0)
    for low in ((3, -4, 7), (-2, -8, 12), (8, 0, 0)):
        for mine, theirs in zip(kept.crop("a0", np.array(low), SIZE), read.crop("a0", np.array(low), SIZE), strict=True):
            assert mine.shape[-3:] == SIZE
            assert np.array_equal(mine, theirs)
    assert np.array_equal(kept.crop("a0", np.array((3, -4, 7)), SIZE)[0][0, 0, 4:28, 0], kept.whole("a0")[0][0, 3, :, 7])
    assert read.kept is None


def test_batches_are_a_function_of_the_seed_and_the_step(volumes):
    def batch(step, seed=0, num_steps=8, per_step=2):
        return Batches(volumes(), ["a0", "a1", "a2"], SIZE, per_step, num_steps, seed).batch(step)

    for mine, theirs in zip(batch(5), batch(5, num_steps=20), strict=True):
        assert torch.equal(mine, theirs)
    assert not torch.equal(batch(5)[0], batch(5, seed=1)[0])
    assert not torch.equal(batch(5)[0], batch(6)[0])
    voxels, labels = batch(0)
    assert (voxels.shape, labels.shape) == ((2, 1, *SIZE), (2, *SIZE))
    assert voxels.min() >= 0
    assert voxels.max() <= 1
    assert (labels.dtype, set(labels.unique().tolist()) <= {0, 1, 2}) == (torch.int64, True)


def test_every_scan_comes_once_an_epoch_and_crops_stay_within_the_volume(volumes):
    batches = Batches(volumes(), ["a0", "a1", "a2"], SIZE, 3, 100, 0)
    places = [batches.place(sample) for sample in range(300)]
    for epoch in range(100):
        assert {scan for scan, _ in places[3 * epoch : 3 * epoch + 3]} == {"a0", "a1", "a2"}
    lows = np.array([low for _, low in places])
    assert (lows.min(axis=0) == (0, -8, 0)).all()
    assert (lows.max(axis=0) == (8, 0, 8)).all()


def test_a_third_of_the_crops_holds_the_middle_of_a_structure(volumes):
    batches = Batches(volumes(), ["a0"], (8, 8, 8), 1, 600, 0)
    labels = volumes().whole("a0")[1]
    middles = [tuple(np.minimum(low + 4, 23)) for _, low in (batches.place(sample) for sample in range(600))]
    share = np.mean([labels[middle] > 0 for middle in middles])
    assert AT_STRUCTURE * 0.8 < share < AT_STRUCTURE + (labels > 0).mean() * 4 + 0.1
    empty = volumes()
    empty.places["a0"] = []
    plain = Batches(empty, ["a0"], (8, 8, 8), 1, 600, 0)
    without = np.mean([labels[tuple(np.minimum(plain.place(sample)[1] + 4, 23))] > 0 for sample in range(600)])
    assert share > without + 0.15


def test_augmentation_keeps_air_and_the_order_of_intensities_and_is_mild():
    voxels = torch.linspace(0, 1, 64).reshape(1, 1, 4, 4, 4).repeat(3, 1, 1, 1, 1)
    found = brightened(voxels, torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.999, 0.999]]))
    assert torch.allclose(found[1], voxels[1])
    assert (found[:, 0, 0, 0, 0] == 0).all()
    assert (found.flatten(1).diff(dim=1) >= 0).all()
    assert (found - voxels).abs().max() < 0.25
    assert torch.equal(voxels[0], voxels[1])


def test_the_data_digest_follows_labels_and_splits(tiny):
    _, where = tiny
    store, frame = Store(where.store), read_manifest(where.manifest)
    first = data_digest(store, labelled_scans(frame, "tissue"), "tissue")
    assert first == data_digest(Store(where.store), labelled_scans(pd.DataFrame(frame), "tissue"), "tissue")
    store.write_labels("a0", "tissue", np.zeros((24, 24, 24), np.uint8))
    assert data_digest(store, labelled_scans(frame, "tissue"), "tissue") != first
