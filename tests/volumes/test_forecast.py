"""The forecast of a store's disk: an upper bound that is not far off, and bytes in words."""

import numpy as np
import pytest

from anatomy.grid import Grid
from pipeline.volumes.forecast import free_bytes, store_bytes, told, used_bytes
from pipeline.volumes.preparation import prepare
from pipeline.volumes.store import Store
from pipeline.volumes.volume import Volume


@pytest.mark.parametrize("spacing", ["native", (2.0, 2.0, 2.0), (1.5, 1.0, 4.0)])
def test_noise_needs_no_more_than_was_said(tmp_path, spacing):
    shape, native = (60, 70, 50), (1.5, 1.0, 2.0)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    voxels = 1200 * np.exp(-2 * (x**2 + y**2 + z**2)) + np.random.default_rng(0).normal(0, 40, shape)
    grid = Grid.of(shape, native)
    labels = Volume((voxels > 600).astype(np.int16)[None], grid)
    done = prepare(Volume(voxels.astype(np.int16)[None], grid), ("MR",), {"blob": labels}, spacing, crop_body=False)
    Store(tmp_path).write("a" * 16, done.voxels, done.body, done.meta, done.labels, done.fingerprint.packed())
    said, used = store_bytes([(shape, native, 1)], spacing), used_bytes(tmp_path)
    assert used <= said <= 2.5 * used


def test_free_space_is_that_of_the_disk_where_a_folder_will_be(tmp_path):
    assert abs(free_bytes(tmp_path / "not/yet/there") - free_bytes(tmp_path)) < 1 << 30
    assert used_bytes(tmp_path / "not") == 0


@pytest.mark.parametrize(("number", "words"), [(0, "0 kB"), (45_000, "45 kB"), (12_340_000, "12.3 MB"), (2 * 10**12, "2.0 TB")])
def test_bytes_in_words(number, words):
    assert told(number) == words
