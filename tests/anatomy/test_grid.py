"""A grid knows where its voxels are, whatever is done to the array."""

import numpy as np
import pytest

from anatomy.grid import Grid, nearest_axes


def oblique_lps_grid() -> Grid:
    angle = np.deg2rad(12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, -0.8, 0], [0, 0, 3.0], [1.1, 0, 0]])
    affine[:3, 3] = (5, -7, 11)
    return Grid((6, 9, 4), affine)


def test_index_and_world_are_inverse():
    grid = oblique_lps_grid()
    points = np.random.default_rng(0).uniform(0, 8, (20, 3))
    assert grid.index(grid.world(points)) == pytest.approx(points)


def test_canonical_moves_no_voxel_in_the_patient():
    grid = oblique_lps_grid()
    array = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    canonical, order, flips = grid.canonical()
    moved = array.transpose(order)
    moved = moved[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    assert moved.shape == canonical.shape
    for index in np.ndindex(*canonical.shape):
        old = np.unravel_index(int(moved[index]), grid.shape)
        assert canonical.world(index) == pytest.approx(grid.world(old))


def test_canonical_is_ras_and_stays_ras():
    canonical, _, _ = oblique_lps_grid().canonical()
    again, order, flips = canonical.canonical()
    assert canonical.orientation == "RAS"
    assert order == (0, 1, 2)
    assert flips == (False, False, False)
    assert again.same_place(canonical, 1e-9)


def test_orientation_of_an_lps_grid():
    assert Grid((2, 2, 2), np.diag([-1.0, -1, 1, 1])).orientation == "LPS"


def test_a_crop_keeps_world_positions_even_past_the_edge():
    grid = oblique_lps_grid()
    crop = grid.cropped((2, -3, 1), (5, 12, 3))
    assert crop.shape == (3, 15, 2)
    assert crop.world((0, 0, 0)) == pytest.approx(grid.world((2, -3, 1)))


def test_resampling_keeps_the_centre_and_about_the_extent():
    grid = Grid.of((20, 30, 10), (1.0, 1.5, 4.0), (3, 4, 5))
    other = grid.resampled((2.0, 2.0, 2.0))
    assert other.shape == (10, 22, 20)
    assert other.spacing_mm == pytest.approx((2, 2, 2))
    middle = (np.array(grid.shape) - 1) / 2
    assert other.world((np.array(other.shape) - 1) / 2) == pytest.approx(grid.world(middle))


def test_same_place_notices_a_tenth_of_a_millimetre():
    grid = Grid.of((5, 5, 5), (1, 1, 1))
    assert grid.same_place(Grid.of((5, 5, 5), (1, 1, 1), (0.05, 0, 0)))
    assert not grid.same_place(Grid.of((5, 5, 5), (1, 1, 1), (0.2, 0, 0)))
    assert not grid.same_place(Grid.of((5, 5, 6), (1, 1, 1)))


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3)])
def test_an_affine_without_a_place_is_refused(affine):
    with pytest.raises(ValueError, match="affine"):
        Grid((2, 2, 2), affine)


def test_an_axis_is_never_assigned_twice():
    nearly = np.array([[0.7, 0.72, 0.0], [0.71, 0.69, 0.1], [0.0, 0.05, 0.99]])
    order, _ = nearest_axes(nearly)
    assert sorted(order) == [0, 1, 2]


def test_an_affine_cannot_be_changed_behind_the_grids_back():
    grid = Grid.of((2, 2, 2), (1, 1, 1))
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 5
