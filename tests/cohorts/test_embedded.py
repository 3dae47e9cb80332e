"""The embedded cohort: the same bytes each time, subjects that differ, a truth that is true, and series that a DICOM reader accepts."""

import io
import json

import nibabel
import numpy as np
import pydicom
import pytest

from anatomy.grid import Grid
from pipeline.cohorts._brains import Brain, make_brain, pack_truth, read_template, template_place
from pipeline.cohorts._deformation import Deformation, draw_deformation, draw_lattice, jacobian, spline
from pipeline.cohorts._made import Made
from pipeline.cohorts.embedded import Embedded

CONFIG = Embedded.Config(subjects=3, dicom_subjects=1, spacing_mm=4.0)


@pytest.fixture(scope="module")
def template(maps):
    return read_template(maps["t1"], maps["gm"], maps["wm"], smooth_mm=1.4)


@pytest.fixture(scope="module")
def brain(template) -> Brain:
    return make_brain(template, 0, "brain_000", 4.0)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_folder_gets_the_same_bytes(packages, tmp_path):
    cards = Embedded(CONFIG).make(packages)
    other = tmp_path / "other"
    (other / "packages").mkdir(parents=True)
    for path in (packages / "packages").iterdir():
        (other / "packages" / path.name).write_bytes(path.read_bytes())
    assert Embedded(CONFIG).make(other) == cards
    assert files_of(other) == files_of(packages)


def test_what_is_right_is_kept_and_what_is_not_is_made_again(packages):
    cards = Embedded(CONFIG).make(packages)
    before = {name: (packages / name).stat().st_mtime_ns for name in files_of(packages)}
    damaged, missing = packages / "brains/labels/brain_001.nii.gz", packages / "junk/liver.dcm"
    content = damaged.read_bytes()
    damaged.write_bytes(b"damaged")
    missing.unlink()
    assert Embedded(CONFIG).make(packages) == cards
    assert (damaged.read_bytes(), missing.read_bytes()) == (content, b"no image")
    kept = [name for name in before if "brain_000" in name or name.startswith(("volumes", "packages"))]
    assert len(kept) > 8
    assert all((packages / name).stat().st_mtime_ns == before[name] for name in kept)


def test_fewer_subjects_leave_no_files_of_the_others_and_touch_nothing_of_the_users(packages):
    Embedded(CONFIG).make(packages)
    own = packages / "brains" / "images" / "mine.nii.gz"
    own.write_bytes(b"mine")
    Embedded(CONFIG.model_copy(update={"subjects": 2})).make(packages)
    names = {path.name for path in (packages / "brains" / "labels").iterdir()}
    assert names == {"brain_000.nii.gz", "abendroth_adelina.nii.gz"}
    assert own.read_bytes() == b"mine"


def test_an_item_whose_making_stopped_half_way_is_made_anew(tmp_path):
    made = Made(tmp_path, "part", 1)

    def stopping():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.keep_or_make("item", stopping)
    assert set(made.keep_or_make("item", lambda: {"a/b": b"1"})) == {"a/b"}
    assert set(Made(tmp_path, "part", 2).keep_or_make("item", lambda: {"a/c": b"2"})) == {"a/c"}, "other settings, other files"


def test_every_part_states_its_origin_licence_and_package(packages):
    cards = Embedded(CONFIG).make(packages)
    assert [card["part"] for card in cards] == ["brains", "volumes", "junk"]
    assert all(card["origin"] and card["licence"] and len(card["package"]["sha256"]) == 64 for card in cards)
    assert [card["files"] for card in cards][1:] == [8, 1]
    assert str(packages) not in json.dumps(cards)


def test_label_maps_of_the_volumes_package_are_no_scans(packages):
    Embedded(CONFIG).make(packages)
    names = [path.name for path in (packages / "volumes").rglob("*") if path.is_file()]
    assert len(names) == len(set(names)) == 8
    assert not any("seg" in name for name in names)


def test_a_series_says_the_same_as_the_volume_it_was_made_of(packages, template):
    Embedded(CONFIG).make(packages)
    name = "abendroth_adelina"
    brain = make_brain(template, 0, name, 4.0)
    slices = [pydicom.dcmread(path) for path in sorted((packages / "brains/images" / name).glob("*.dcm"))]
    assert len(slices) == brain.grid.shape[2]
    for dataset in slices[:: len(slices) - 1]:
        rows, columns = np.nonzero(dataset.pixel_array > dataset.pixel_array.max() / 2) if dataset.pixel_array.any() else ([0], [0])
        row, column = int(rows[0]), int(columns[0])
        along, across = (np.array(dataset.ImageOrientationPatient[n : n + 3], float) for n in (3, 0))
        spacing = [float(step) for step in dataset.PixelSpacing]
        lps = np.array(dataset.ImagePositionPatient, float) + across * column * spacing[1] + along * row * spacing[0]
        index = np.rint(brain.grid.index(lps * (-1, -1, 1))).astype(int)
        assert np.allclose(brain.grid.world(index), lps * (-1, -1, 1), atol=1e-3)
        assert brain.voxels[tuple(index)] == dataset.pixel_array[row, column]
    assert {str(dataset.PatientName) for dataset in slices} == {"Abendroth^Adelina"}
    assert len({dataset.SOPInstanceUID for dataset in slices}) == len(slices)
    assert all(
        dataset.SOPInstanceUID.is_valid and dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID for dataset in slices
    )


def test_labels_lie_on_their_images_grid_and_hold_three_tissues(packages):
    Embedded(CONFIG).make(packages)
    image = nibabel.load(packages / "brains/images/brain_000.nii.gz")
    labels = nibabel.load(packages / "brains/labels/brain_000.nii.gz")
    assert image.shape == labels.shape
    assert np.array_equal(image.affine, labels.affine)
    assert set(np.unique(labels.dataobj)) == {0, 1, 2, 3}
    assert image.get_data_dtype() == np.int16


def test_white_matter_is_brighter_than_grey_and_grey_than_fluid_whatever_the_contrast(template):
    for number in range(4):
        brain = make_brain(template, number, "brain_000", 4.0)
        fluid, grey, white = (np.median(brain.voxels[brain.labels == tissue]) for tissue in (3, 1, 2))
        assert fluid < grey < white


def test_the_truth_leads_each_voxel_to_its_tissue_in_the_template(template, brain, tmp_path):
    path = tmp_path / "truth.npz"
    path.write_bytes(pack_truth(brain))
    for tissue in (1, 2):
        places = brain.grid.world(np.argwhere(brain.labels == tissue))
        index = np.rint(template.grid.index(template_place(path, places))).astype(int)
        found = template.shares[:, index[:, 0], index[:, 1], index[:, 2]].argmax(axis=0)
        assert (found == tissue).mean() > 0.9


def test_every_voxel_of_the_grid_has_a_truth_and_what_is_off_it_has_none(brain, tmp_path):
    path = tmp_path / "truth.npz"
    path.write_bytes(pack_truth(brain))
    assert np.isfinite(template_place(path, brain.grid.corners_mm())).all()
    assert np.isnan(template_place(path, brain.grid.world(np.array([[-5, 0, 0]])))).all()


def test_equal_indices_of_two_subjects_are_other_places_of_the_template(template, tmp_path):
    brains = [make_brain(template, 0, f"brain_{number:03d}", 4.0) for number in range(2)]
    assert brains[0].grid.shape != brains[1].grid.shape
    places = []
    for number, brain in enumerate(brains):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(pack_truth(brain))
        middle = np.stack(np.meshgrid(*[np.arange(5, 12)] * 3), axis=-1).reshape(-1, 3)
        places.append(template_place(path, brain.grid.world(middle)))
    assert np.median(np.linalg.norm(places[0] - places[1], axis=1)) > 8


def test_deformations_are_invertible():
    for seed in range(5):
        deformation = draw_deformation(np.random.default_rng(seed), np.zeros(3))
        grid = Grid.of((40, 40, 40), (5, 5, 5), (-100, -100, -100))
        assert jacobian(deformation.field(grid), 5.0).min() > 0.25


def test_without_a_bend_the_field_is_the_affine_map():
    linear = np.array([[1.1, 0.1, 0], [0, 0.9, 0], [0, 0.2, 1.0]])
    deformation = Deformation(np.array([1.0, 2, 3]), linear, np.array([10.0, 0, -5]), ((60.0, np.zeros((8, 8, 8, 3))),))
    grid = Grid.of((4, 5, 6), (2, 2, 2), (-3, 1, 7))
    place = grid.world(np.array([3, 4, 5]))
    assert np.allclose(deformation.field(grid)[3, 4, 5], linear @ (place - [1, 2, 3] - [10, 0, -5]) + [1, 2, 3])


def test_a_spline_of_equal_control_points_is_constant_and_one_of_a_ramp_is_a_ramp():
    rng = np.random.default_rng(0)
    shape = draw_lattice(rng, 50.0, 1.0, 1).shape
    axes = [np.linspace(-100, 100, 9)] * 3
    assert np.allclose(spline(np.full(shape, 4.0), 50.0, axes), 4.0)
    ramp = np.broadcast_to(np.arange(shape[0], dtype=float)[:, None, None, None], shape)
    assert np.allclose(np.diff(spline(ramp, 50.0, axes)[:, 0, 0, 0]), 25 / 50)


def test_packed_truth_is_the_same_bytes_each_time(brain):
    assert pack_truth(brain) == pack_truth(brain)
    assert set(np.load(io.BytesIO(pack_truth(brain))).files) == {"template_mm", "affine"}


def test_more_series_than_subjects_are_refused():
    with pytest.raises(ValueError, match="dicom_subjects"):
        Embedded.Config(subjects=2, dicom_subjects=3)
