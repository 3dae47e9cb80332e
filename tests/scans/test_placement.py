"""NIfTI files whose header places the voxels in two ways: refused, unless the source names the form that counts."""

import nibabel as nib
import numpy as np
import pytest

from pipeline.plan import make_plan
from pipeline.scans.identity import Identity
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.reading import read_scan
from pipeline.verbs.index import places_of

IDENTITY = Identity(bytes(32))
SFORM = np.array([[1.0, 0, 0, -20], [0, 1.5, 0, -9], [0, 0, 2.0, 4], [0, 0, 0, 1]])
QFORM = np.array([[-1.0, 0, 0, 20], [0, 1.5, 0, -9], [0, 0, 2.0, 4], [0, 0, 0, 1]])  # left and right exchanged
VALUES = np.random.default_rng(3).integers(-900, 900, (24, 22, 20)).astype(np.int16)


def save(path, values=VALUES, sform=SFORM, qform=QFORM, codes=(1, 1)):
    image = nib.Nifti1Image(values, SFORM)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nib.save(image, path)


def stock(folder, placement, four_d="refuse"):
    return take_stock([Place(folder, "scans", "MR", placement=placement, four_d=four_d)], IDENTITY)


def test_forms_that_disagree_are_refused_unless_one_is_named(tmp_path):
    save(tmp_path / "a.nii.gz")
    found = stock(tmp_path, "")
    assert found.files[0].code is Code.ORIENTATION_CONFLICT
    with pytest.raises(Refused):
        read_scan("nifti", [tmp_path / "a.nii.gz"])


@pytest.mark.parametrize(("placement", "affine"), [("sform", SFORM), ("qform", QFORM)])
def test_the_form_that_is_named_places_the_voxels(tmp_path, placement, affine):
    save(tmp_path / "a.nii.gz")
    (scan,) = stock(tmp_path, placement).scans
    volume = read_scan(scan.kind, scan.paths)
    np.testing.assert_allclose(volume.grid.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(volume.voxels[0], VALUES)


@pytest.mark.parametrize("placement", ["sform", "qform"])
@pytest.mark.parametrize(("codes", "affine"), [((1, 0), SFORM), ((0, 1), QFORM)])
def test_a_form_that_is_not_coded_never_counts(tmp_path, placement, codes, affine):
    save(tmp_path / "a.nii", codes=codes)
    (scan,) = stock(tmp_path, placement).scans
    np.testing.assert_allclose(read_scan(scan.kind, scan.paths).grid.affine, affine, atol=1e-5)


def test_without_any_form_a_name_helps_nothing(tmp_path):
    save(tmp_path / "a.nii", codes=(0, 0))
    assert stock(tmp_path, "qform").files[0].code is Code.ORIENTATION


def test_the_name_goes_with_each_volume_of_a_4d_file(tmp_path):
    save(tmp_path / "a.nii.gz", np.stack([VALUES, VALUES + 1], axis=-1))
    scans = stock(tmp_path, "qform", "split").scans
    assert [scan.kind for scan in scans] == ["nifti:qform-0", "nifti:qform-1"]
    for number, scan in enumerate(scans):
        volume = read_scan(scan.kind, scan.paths)
        np.testing.assert_array_equal(volume.voxels[0], VALUES + number)
        np.testing.assert_allclose(volume.grid.affine, QFORM, atol=1e-5)


@pytest.mark.parametrize("kind", ["nifti:zform", "nifti:qform-", "nifti:qform3", "metaimage:qform", "dicom:sform"])
def test_kinds_that_no_index_writes_are_refused(kind, tmp_path):
    save(tmp_path / "a.nii")
    with pytest.raises(ValueError, match="kind"):
        read_scan(kind, [tmp_path / "a.nii"])


def test_the_study_names_the_form(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "study.yaml").write_text(
        "sources: [{path: '{data}', modality: MR, placement: qform}]\nsplit: {test: 1, validation: 1}\n", encoding="utf-8"
    )
    plan = make_plan(tmp_path / "study.yaml", str(tmp_path / "data"), str(tmp_path / "results"))
    assert [place.placement for place in places_of(plan)] == ["qform"]
