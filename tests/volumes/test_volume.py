"""Voxels and their grid travel together."""

import itertools

import numpy as np
import pytest

from anatomy.grid import Grid
from pipeline.volumes.volume import Volume


def blobs(grid: Grid) -> np.ndarray:
    """Three marks of different value at known places in mm."""
    voxels = np.zeros((1, *grid.shape), dtype=np.int16)
    for value, place in enumerate(PLACES, start=1):
        voxels[(0, *np.rint(grid.index(place)).astype(int))] = value
    return voxels


PLACES = np.array([[2.0, 3.0, 4.0], [10.0, 3.0, 4.0], [2.0, 15.0, 8.0]])


@pytest.mark.parametrize(("order", "signs"), itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
def test_canonical_keeps_every_mark_where_it_is_in_the_patient(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    spacing = np.array([1.0, 1.5, 2.0])
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * spacing[axis]
    shape = np.array([14, 16, 18])
    affine[:3, 3] = np.array([6.0, 9.0, 8.0]) - affine[:3, :3] @ (shape // 2)
    grid = Grid(tuple(shape), affine)
    moved = Volume(blobs(grid), grid).canonical()
    assert moved.grid.orientation == "RAS"
    for value, place in enumerate(PLACES, start=1):
        found = moved.grid.world(np.argwhere(moved.voxels[0] == value)[0])
        assert np.abs(found - place).max() <= spacing.max() / 2


def test_a_crop_keeps_world_positions(phantom: Volume) -> None:
    crop = phantom.cropped((3, 5, 7), (20, 30, 25))
    np.testing.assert_array_equal(crop.voxels, phantom.voxels[:, 3:20, 5:30, 7:25])
    np.testing.assert_allclose(crop.grid.world((0, 0, 0)), phantom.grid.world((3, 5, 7)))


def test_voxels_that_do_not_fit_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="voxels"):
        Volume(np.zeros((4, 4, 4)), Grid.of((4, 4, 4), (1, 1, 1)))
