"""The body's outline and box, and coordinates inside the box."""

import numpy as np
import pytest
from scipy import ndimage

from anatomy.blocks import block_means
from anatomy.body import Body, find_body, from_body, otsu, to_body
from anatomy.grid import Grid


def body_mask(voxels: np.ndarray, modality: str = "MR") -> np.ndarray:
    return find_body(block_means(voxels), modality).mask()


def ellipsoid(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    index = np.indices(shape).reshape(3, -1).T
    return (((index - centre) / radii) ** 2).sum(axis=1).reshape(shape) <= 1


def test_ct_outline_holds_the_lungs_and_leaves_the_table_out() -> None:
    body = ellipsoid((60, 50, 40), (30, 25, 20), (22, 16, 60))
    lungs = ellipsoid((60, 50, 40), (22, 25, 20), (6, 7, 60))
    voxels = np.where(body, 40.0, -1000.0)
    voxels[lungs] = -850.0
    voxels[5:55, 45:47, :] = 100.0
    mask = body_mask(voxels.astype(np.float32), "CT")
    assert mask[lungs].all()
    assert not mask[:, 45:].any()
    assert (mask & body).sum() / (mask | body).sum() > 0.9


@pytest.mark.parametrize("noise", [0.0, 30.0])
def test_mr_outline_is_found_in_noisy_air_and_keeps_dim_tissue(noise: float) -> None:
    head = ellipsoid((48, 52, 40), (24, 26, 20), (18, 20, 15))
    voxels = np.where(head, 300.0 + 15.0 * np.indices(head.shape)[0], 0.0)
    voxels = voxels + np.random.default_rng(0).normal(size=head.shape) * noise
    mask = body_mask(voxels.astype(np.float32))
    assert (mask & head).sum() / (mask | head).sum() > 0.8


def test_a_crop_inside_the_body_is_body_throughout() -> None:
    texture = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(36, 50, 36)), 3)
    voxels = 400 + 100 * texture / texture.std()
    assert body_mask(voxels.astype(np.float32)).all()


def test_a_large_volume_is_outlined_to_a_block() -> None:
    body = ellipsoid((200, 60, 50), (100, 30, 25), (80, 22, 18))
    mask = body_mask(np.where(body, 100, -1000).astype(np.int16), "CT")
    assert mask.shape == body.shape
    low, high = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0)
    assert np.abs(low - np.argwhere(body).min(axis=0)).max() <= 4
    assert np.abs(high - np.argwhere(body).max(axis=0)).max() <= 4


def test_otsu_divides_two_values_and_bears_a_constant() -> None:
    values = np.r_[np.full(700, 10.0), np.full(300, 200.0)]
    assert 10 <= otsu(values) < 200
    assert otsu(np.full(100, 7.0)) == 7.0


def test_box_spans_the_outer_faces_in_world_axes() -> None:
    mask = np.zeros((10, 12, 14), dtype=bool)
    mask[2:5, 3:9, 4:6] = True
    low, high = Body.of(mask).box_mm(Grid.of(mask.shape, (2, 1, 3), (-7, 5, 11)))
    np.testing.assert_allclose(low, [-7 + 2 * 2 - 1, 5 + 3 - 0.5, 11 + 3 * 4 - 1.5])
    np.testing.assert_allclose(high, [-7 + 2 * 4 + 1, 5 + 8 + 0.5, 11 + 3 * 5 + 1.5])


def test_box_of_one_voxel_has_a_size_and_an_empty_mask_has_no_box() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    with pytest.raises(ValueError, match="empty"):
        Body.of(mask).box_mm(Grid.of(mask.shape, (1, 1, 1)))
    mask[0, 3, 2] = True
    low, high = Body.of(mask).box_mm(Grid.of(mask.shape, (1, 2, 3)))
    np.testing.assert_allclose(high - low, [1, 2, 3])


def test_box_of_an_oblique_grid_holds_every_voxel() -> None:
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    mask = np.ones((6, 20, 5), dtype=bool)
    grid = Grid(mask.shape, affine)
    low, high = Body.of(mask).box_mm(grid)
    corners = grid.corners_mm()
    assert (corners >= low).all()
    assert (corners <= high).all()
    assert (high - low)[0] > 6


def test_body_coordinates_run_from_0_to_1_and_back() -> None:
    low, high = np.array([-10.0, 5.0, 0.0]), np.array([30.0, 25.0, 100.0])
    np.testing.assert_allclose(to_body(np.stack([low, high, (low + high) / 2]), low, high), [[0] * 3, [1] * 3, [0.5] * 3])
    points = np.random.default_rng(0).normal(size=(4, 5, 3)) * 50
    np.testing.assert_allclose(from_body(to_body(points, low, high), low, high), points)
