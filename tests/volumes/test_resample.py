"""Resampling keeps places in mm, does not alias, keeps thick slices, and tears no label."""

import numpy as np
import pytest
from scipy import ndimage

from anatomy.grid import Grid
from pipeline.volumes.resample import onto, resample, resample_labels, resample_mask, target_grid
from pipeline.volumes.volume import Volume


def positions(grid: Grid) -> np.ndarray:
    """(D, H, W, 3) mm of each voxel."""
    return grid.world(np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1))


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (0.5, 1.3, 3.0), (1.7, 2.9, 4.0)])
def test_a_slope_in_mm_stays_where_it_is(spacing: tuple[float, ...]) -> None:
    grid = Grid.of((40, 30, 36), (1, 1.5, 2), (5, -3, 7))
    slope = np.array([1.0, 2.0, 3.0])
    new = target_grid(grid, spacing)
    result = resample(Volume((positions(grid) @ slope).astype(np.float32)[None], grid), new)
    inner = tuple(slice(3, -3) for _ in range(3))
    np.testing.assert_allclose(result.voxels[0][inner], (positions(new) @ slope)[inner], atol=1e-3)


def test_an_asymmetric_mark_stays_where_it_is(phantom: Volume) -> None:
    mark = np.zeros(phantom.grid.shape, dtype=np.float32)
    mark[8:12, 30:36, 5:9] = 1
    new = target_grid(phantom.grid, (1.5, 1.0, 3.0))
    moved = resample(Volume(mark[None], phantom.grid), new).voxels[0]
    old_centre = phantom.grid.world(np.array(ndimage.center_of_mass(mark)))
    new_centre = new.world(np.array(ndimage.center_of_mass(moved)))
    np.testing.assert_allclose(new_centre, old_centre, atol=0.2)


def test_making_a_grid_coarser_averages_noise_instead_of_picking_it() -> None:
    grid = Grid.of((48, 48, 48), (1, 1, 1))
    noise = np.random.default_rng(0).normal(size=(1, *grid.shape)).astype(np.float32)
    coarse = resample(Volume(noise, grid), target_grid(grid, (3, 3, 3))).voxels
    assert coarse.std() < 0.2
    checker = (np.indices(grid.shape).sum(axis=0) % 2).astype(np.float32)[None]
    inner = resample(Volume(checker, grid), target_grid(grid, (4, 4, 4))).voxels[0, 1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, 0.5, atol=0.02)


def test_a_constant_stays_constant_to_the_border() -> None:
    grid = Grid.of((11, 7, 5), (1, 2, 3))
    for spacing in [(0.7, 1.1, 2), (2.5, 5, 7)]:
        result = resample(Volume(np.full((1, *grid.shape), 37.0, dtype=np.float32), grid), target_grid(grid, spacing))
        np.testing.assert_allclose(result.voxels, 37.0, rtol=1e-6)


def test_nothing_is_touched_where_spacing_matches(phantom: Volume) -> None:
    assert target_grid(phantom.grid, "native") is phantom.grid
    assert target_grid(phantom.grid, phantom.grid.spacing_mm) is phantom.grid
    assert resample(phantom, phantom.grid) is phantom


def test_thick_slices_are_not_made_finer_but_may_be_made_coarser() -> None:
    thick = Grid.of((64, 64, 10), (1.0, 1.0, 5.0))
    assert target_grid(thick, (1.5, 1.5, 1.5)).spacing_mm == (1.5, 1.5, 5.0)
    assert target_grid(thick, (1.5, 1.5, 1.5), keep_thick=False).spacing_mm == (1.5, 1.5, 1.5)
    assert target_grid(thick, (6.0, 6.0, 6.0)).spacing_mm == (6.0, 6.0, 6.0)
    assert target_grid(Grid.of((64, 64, 10), (1.0, 1.0, 2.5)), (1.5, 1.5, 1.5)).spacing_mm == (1.5, 1.5, 1.5)


def test_labels_are_resampled_value_by_value_and_every_boxed_part_agrees_with_the_whole() -> None:
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(4, 30, 28, 26)), (0, 3, 3, 3))
    labels = (field.argmax(axis=0) * 70).astype(np.uint8)
    old = Grid.of(labels.shape, (1, 1, 2))
    for spacing in [(1.6, 1.3, 1.1), (2.5, 2.5, 2.5)]:
        new = target_grid(old, spacing)
        result = resample_labels(labels, old, new)
        shares = np.stack([resample(Volume((labels == v).astype(np.float32)[None], old), new).voxels[0] for v in (0, 70, 140, 210)])
        clear = np.sort(shares, axis=0)[-1] - np.sort(shares, axis=0)[-2] > 1e-4
        np.testing.assert_array_equal(result[clear], (shares.argmax(axis=0) * 70)[clear])


def test_a_thin_sheet_of_labels_is_not_torn() -> None:
    labels = np.zeros((30, 30, 30), dtype=np.uint8)
    labels[:, :, 14:17] = 3
    old = Grid.of(labels.shape, (1, 1, 1))
    result = resample_labels(labels, old, target_grid(old, (2.5, 2.5, 2.5)))
    assert set(np.unique(result)) == {0, 3}
    assert (result == 3).any(axis=2).all()


def test_a_mask_keeps_its_volume() -> None:
    mask = np.zeros((40, 40, 40), dtype=bool)
    mask[8:30, 12:33, 5:28] = True
    old = Grid.of(mask.shape, (1, 1, 1))
    new = target_grid(old, (1.7, 1.7, 1.7))
    assert resample_mask(mask, old, new).sum() * 1.7**3 == pytest.approx(mask.sum(), rel=0.12)
    assert resample_mask(mask, old, old) is mask


def test_a_scan_is_laid_onto_the_grid_of_another() -> None:
    source = Grid.of((40, 36, 30), (1, 1, 2), (0, 0, 0))
    voxels = (positions(source) @ [1.0, -2.0, 0.5]).astype(np.float32)[None]
    angle = np.deg2rad(12)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:2, :2] = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine[:3, 3] = [12, 6, 10]
    target = Grid((10, 10, 12), affine)
    result = onto(Volume(voxels, source), target, fill=-999)
    np.testing.assert_allclose(result.voxels[0], positions(target) @ [1.0, -2.0, 0.5], atol=0.1)
    outside = onto(Volume(voxels, source), Grid.of((4, 4, 4), (1, 1, 1), (500, 0, 0)), fill=-999)
    np.testing.assert_array_equal(outside.voxels, -999)


def test_labels_between_thick_slices_are_those_of_the_nearest_slice() -> None:
    rng = np.random.default_rng(0)
    labels = (ndimage.gaussian_filter(rng.normal(size=(24, 24, 6)), (3, 3, 0)) > 0).astype(np.uint8) * 7
    old = Grid.of(labels.shape, (1, 1, 5))
    new = target_grid(old, (1, 1, 1), keep_thick=False)
    result = resample_labels(labels, old, new)
    assert result.shape == (24, 24, 30)
    np.testing.assert_array_equal(result, np.repeat(labels, 5, axis=2))


def test_a_zone_plate_does_not_alias_where_the_grid_gets_coarser() -> None:
    """Its rings get finer outwards: beyond the new grid's Nyquist frequency must be grey, where picking voxels would draw new rings."""
    index = np.arange(160) - 79.5
    plane = np.cos(np.pi / 2 * (index[:, None] ** 2 + index**2) / 80 * 0.9)
    grid = Grid.of((160, 160, 4), (1, 1, 1))
    voxels = np.repeat(plane[..., None], 4, axis=2).astype(np.float32)[None]
    coarse = resample(Volume(voxels, grid), grid.resampled((4, 4, 1))).voxels[0, :, :, 0]
    radius = 4 * np.hypot(*np.meshgrid(*[np.arange(40) - 19.5] * 2))
    beyond = (radius > 50) & (radius < 76)  # a period of 2.8 to 3.5 mm, less than two new voxels
    assert coarse[beyond].std() < 0.1
    assert plane[2::4, 2::4][beyond].std() > 0.6
    assert coarse[radius < 8].std() > 0.1
