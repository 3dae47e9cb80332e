# ruff: noqa: RUF005 (arrays are added, not joined)
"""Filling polygons: against the textbook's test of one point at a time, and by volumes that are known."""

import numpy as np
import pytest
from drawn import ball, image, make_structure_set, outline, plane_of, write
from faults.series import save
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.labels.polygons import cross, filled
from pipeline.labels.reading import read_labels
from pipeline.labels.rule import rule_of
from pipeline.scans.reading import read_scan

SHAPE = (9, 8)
places = st.tuples(*[st.integers(-8, 4 * side + 8).map(lambda n: n / 4) for side in SHAPE])


def is_inside(outline, row, column):
    """Jordan's rule: how often a ray towards falling columns crosses the outline."""
    odd = False
    for (r0, c0), (r1, c1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if (r0 <= row) != (r1 <= row) and c0 + (c1 - c0) * (row - r0) / (r1 - r0) <= column:
            odd = not odd
    return odd


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.lists(places, min_size=3, max_size=7), min_size=1, max_size=3))
def test_a_pixel_is_inside_an_odd_number_of_outlines(outlines):
    found = filled([np.array(item) for item in outlines], SHAPE)
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            assert found[row, column] == (sum(is_inside(np.array(item), row, column) for item in outlines) % 2 == 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(places, min_size=3, max_size=7), st.floats(-1e-6, 1e-6), st.floats(-1e-6, 1e-6))
def test_rounding_errors_of_a_header_decide_nothing(outline, down, across):
    moved = np.array(outline) + [[down, across]]
    assert np.array_equal(filled([np.array(outline)], SHAPE), filled([moved], SHAPE))


@pytest.mark.parametrize("low", [(1, 1), (0.5, 0.5), (0.25, 0.75)])
def test_squares_that_tile_a_plane_share_no_pixel_and_leave_none(low):
    total = np.zeros((12, 12), int)
    for row in range(4):
        for column in range(4):
            corner = np.array(low) + [2.5 * row, 2.5 * column]
            total += filled([corner + [[0, 0], [2.5, 0], [2.5, 2.5], [0, 2.5]]], (12, 12))
    assert total.max() == 1
    assert total.sum() == 100


def test_an_outline_that_reaches_beyond_the_grid_is_cut():
    assert filled([np.array([(-5, -5), (50, -5), (50, 50), (-5, 50)], float)], SHAPE).all()
    assert not filled([np.array([(20, 20), (30, 20), (30, 30)], float)], SHAPE).any()


def square(low, size):
    return np.array(low, float) + [[0, 0], [size, 0], [size, size], [0, size]]


@pytest.mark.parametrize(
    ("second", "crosses"), [(square((2, 2), 4), False), (square((14, 14), 4), False), (square((6, 6), 12), True), (square((9, 1), 8), True)]
)
def test_outlines_that_cross_are_told_from_nested_and_separate_ones(second, crosses):
    assert cross([square((0.5, 0.5), 12), second], (30, 30)) is crosses


def ring(ds, radius, centre, points=360):
    position, _, spacing, _ = plane_of(ds)
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    flat = np.stack([np.sin(angles), np.cos(angles)], axis=1) * radius + (centre - position)[[1, 0]]
    return outline(ds, flat / spacing)


def volume_ml(tmp_path, slices, contours):
    paths = save(slices, tmp_path / "image")
    labels = write(make_structure_set(slices, {(1, "liver"): contours}), tmp_path / "labels.dcm")
    grid = read_scan("dicom", paths).canonical().grid
    found = read_labels([labels], rule_of({1: "liver"}, None), grid, ("dicom", paths))
    return found.voxels.sum() * float(np.prod(grid.spacing_mm)) / 1000


def fine():
    return image(count=48, step=0.8, spacing=(0.7, 0.8), shape=(70, 64))


CENTRE = np.array([-12.0, -18.0, 5.0]) + [25.0, 24.0, 18.5]


def test_a_ball_has_the_volume_of_a_ball(tmp_path):
    """To what slices of 0.8 mm leave open."""
    slices, radius = fine(), 15.0
    contours = []
    for number, ds in enumerate(slices):
        own = radius**2 - (plane_of(ds)[0][2] - CENTRE[2]) ** 2
        contours += [(number, ring(ds, np.sqrt(own), CENTRE))] if own > 0 else []
    assert volume_ml(tmp_path, slices, contours) == pytest.approx(4 / 3 * np.pi * 15**3 / 1000, rel=0.005)
    assert ball(radius, CENTRE)(CENTRE) == radius


def test_a_torus_lying_in_the_slices_has_a_hole(tmp_path):
    slices, wide, thin = fine(), 14.0, 6.0
    contours = []
    for number, ds in enumerate(slices):
        half = thin**2 - (plane_of(ds)[0][2] - CENTRE[2]) ** 2
        if half > 0:
            contours += [(number, ring(ds, wide + np.sqrt(half), CENTRE)), (number, ring(ds, wide - np.sqrt(half), CENTRE))]
    assert volume_ml(tmp_path, slices, contours) == pytest.approx(2 * np.pi**2 * wide * thin**2 / 1000, rel=0.005)
