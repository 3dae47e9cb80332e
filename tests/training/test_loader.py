"""What a loader ships: the store's own voxels, the same ones in any company, in memory that nobody else holds."""

import gc

import numpy as np
import pytest
import torch
import toy

from pipeline.crops._crop import Crop
from pipeline.step import Region
from pipeline.training.loading import loader as loaders
from pipeline.training.loading.boxes import Place, Scratch, together
from pipeline.training.loading.buffers import Batches
from pipeline.training.loading.loader import Loader, geometry
from pipeline.training.loading.staging import on_device

SIZE = (4, 4, 4)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return toy.make_store(tmp_path_factory.mktemp("stored"))


class Near:
    """Three samples in a row from one scan: two close to each other, one of another size; some reach past the volume."""

    def draw(self, sample):
        read, member = divmod(sample, 3)
        centre = tuple((read * 3 + axis + member % 2) % 8 for axis in range(3))
        return Crop(read % 10, centre, (6, 6, 6) if member == 2 else SIZE)


def naive(store, rows, sample, region_vox=SIZE):
    """One crop by indexing a padded volume."""
    crop = Near().draw(sample)
    read = np.round(np.array(region_vox) * np.array(crop.read_vox) / np.array(SIZE)).astype(int)
    voxels = np.pad(store.read(rows["scan_id"][crop.row]), ((0, 0), (9, 9), (9, 9), (9, 9)))
    low = np.array(crop.centre_vox) - read // 2 + 9
    return voxels[(slice(None), *(slice(a, a + n) for a, n in zip(low, read, strict=True)))]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("region_vox", [SIZE, (6, 6, 4)])
def test_crops_read_together_are_those_read_alone(stored, monkeypatch, threads, region_vox):
    monkeypatch.setattr(loaders, "num_readers", lambda: threads)
    store, rows = stored
    whole = Loader(store, rows, Near(), SIZE, region_vox, 12)
    region, crops = whole.region(6), []
    for sample in range(6, 18):
        alone = Loader(store, rows, Near(), SIZE, region_vox, 1).region(sample)
        crops.append(alone.voxels[0])
        if sample % 3 < 2:
            assert np.array_equal(alone.voxels[0].numpy(), naive(store, rows, sample, region_vox))
    assert torch.equal(region.voxels, torch.stack(crops))
    assert region.ids.sample.tolist() == list(range(6, 18))
    assert region.inside.min() >= 0
    share = Loader(store, rows, Near(), SIZE, region_vox, 12, range(4, 9)).region(6)
    assert torch.equal(share.voxels, region.voxels[4:9])
    assert torch.equal(share.affine, region.affine[4:9])


def test_reads_are_joined_where_that_decodes_less():
    near = [Place(0, (0, 0, 0), (96, 96, 96)), Place(0, (8, -4, 10), (96, 96, 96)), Place(0, (1, 2, 3), (96, 96, 96))]
    far, other = Place(0, (200, 0, 0), (96, 96, 96)), Place(1, (0, 0, 0), (96, 96, 96))
    assert together([*near, far, other, near[0]]) == [
        (Place(0, (0, -4, 0), (104, 102, 106)), [0, 1, 2]),
        (far, [3]),
        (other, [4]),
        (near[0], [5]),
    ]
    box, members = together(near)[0]
    whole = np.arange(104 * 102 * 106).reshape(box.size)
    for number in members:
        assert whole[box.window(near[number])].shape == (96, 96, 96)
        assert near[number] in box
    assert far not in box
    assert other not in box


def test_a_box_that_cannot_be_read_costs_only_the_crops_that_cannot(stored):
    store, rows = stored
    loader, reads = Loader(store, rows, Near(), SIZE, SIZE, 3), []
    own = store.crop

    def crop(scan, low, size, fill=None, out=None):
        reads.append(size)
        if len(reads) == 1:
            raise ValueError("a broken chunk in the box")
        return own(scan, low, size, fill, out)

    loader.store = type("Broken", (), {"crop": staticmethod(crop)})()
    assert torch.equal(loader.region(0).voxels, Loader(store, rows, Near(), SIZE, SIZE, 3).region(0).voxels)
    assert reads[0] != SIZE
    assert not loader.unread(range(3))


def test_batches_lie_in_memory_that_is_used_again():
    batches = Batches()
    first = batches.take((2, 3))
    place = first.data_ptr()
    assert first.dtype == torch.int16
    del first
    gc.collect()
    assert batches.take((2, 3)).data_ptr() == place


def test_a_batch_that_is_kept_is_not_overwritten_by_later_ones(stored):
    store, rows = stored
    loader = Loader(store, rows, toy.Places(10, 3), SIZE, SIZE, 4)
    kept = list(loader.batches(0, 6))
    for step, region in enumerate(kept):
        assert torch.equal(region.voxels, loader.region(4 * step).voxels)


def test_scratch_is_grown_and_kept():
    scratch = Scratch()
    small = scratch.take((2, 3))
    assert scratch.take((1, 4)).ctypes.data == small.ctypes.data
    assert scratch.take((5, 5)).shape == (5, 5)


def test_batches_reach_a_device_in_their_order_and_unchanged(stored):
    store, rows = stored
    loader = Loader(store, rows, toy.Places(10, 3), SIZE, SIZE, 4)
    shipped = list(on_device(loader.batches(2, 7), torch.device("cpu")))
    assert [region.ids.sample[0].item() for region in shipped] == [8, 12, 16, 20, 24]
    assert all(
        isinstance(region, Region) and torch.equal(region.voxels, loader.region(int(region.ids.sample[0])).voxels) for region in shipped
    )


def test_a_batch_asks_once_where_a_sample_lies(stored):
    store, rows = stored
    places, asked = toy.Places(10, 3), []
    own = places.draw
    places.draw = lambda sample: asked.append(sample) or own(sample)
    loader = Loader(store, rows, places, SIZE, SIZE, 4)
    loader.region(8)
    loader.scan_of(9)
    assert asked == [8, 9, 10, 11]


def test_regions_of_another_size_keep_their_outer_faces():
    affine = np.diag([1.0, 2.0, 3.0, 1.0])[None].repeat(2, 0)
    places = [Place(0, (4, -2, 0), (8, 8, 8)), Place(1, (4, -2, 0), (16, 8, 4))]
    moved, inside = geometry(places, affine, np.array([[10, 40, 40]] * 2), (8, 8, 8))
    assert moved[0].tolist() == [[1, 0, 0, 4], [0, 2, 0, -4], [0, 0, 3, 0], [0, 0, 0, 1]]
    faces = np.array([[-0.5] * 3 + [1.0], [7.5] * 3 + [1.0]])
    low, high = (affine[1] @ np.array([*ends, 1.0]) for ends in ((3.5, -2.5, -0.5), (19.5, 5.5, 3.5)))
    np.testing.assert_allclose(moved[1] @ faces.T, np.stack([low, high], 1))
    assert inside.tolist() == [[[0, 6], [2, 8], [0, 8]], [[0, 3], [2, 8], [0, 8]]]
