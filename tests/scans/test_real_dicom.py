"""Nine real sets, as scanners and archives wrote them: found whole, placed right, with their values. Skipped where the data are absent."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from faults.outcome import Outcome, read_folder
from scipy.ndimage import map_coordinates

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "dicom").is_dir(), reason="the real scans of ../shared/data are absent")

STS = "sts002_ct_pet_mr_rtstruct"
# folder: (volumes, files a volume, shape and spacing in mm of RAS+ axes, orientation as stored, least and largest value)
SETS = {
    "compressed_rle": (1, 4, (4, 256, 256), (1, 1, 1), "PIR", (0, 254)),
    "compressed_j2k": (1, 4, (4, 256, 256), (1, 1, 1), "PIR", (0, 254)),
    "ct_head_64": (1, 93, (64, 64, 93), (3.2, 3.2, 1.5), "LPS", (0, 3926)),
    "fmri_4d_ge": (2, 4, (64, 64, 4), (3, 3, 3.6), "LPS", (0, 254)),
    "gantry_tilt": (1, 4, (512, 522, 4), (0.41797, 0.41797, 4.85148), "LPS", (-1024, -770)),
    "prostate_adc_seg/ADC": (1, 20, (256, 256, 20), (0.7031, 0.7031, 3), "LPS", (0, 1845)),
    "prostate_t2": (1, 60, (256, 256, 60), (0.66406, 0.66406, 1.5), "LPS", (0, 835)),
    "siemens_multiframe": (1, 1, (256, 256, 8), (0.9375, 0.9375, 0.9), "LPS", (0, 254)),
    f"{STS}/CT/image": (1, 48, (161, 143, 48), (0.97656, 0.97656, 3.27), "LPS", (-1000, 1156)),
    f"{STS}/MR_T1/image": (1, 35, (115, 90, 35), (0.97656, 0.97656, 3.26996), "LPS", (0, 1198)),
    f"{STS}/PET/image": (1, 48, (30, 27, 48), (5.46875, 5.46875, 3.27), "LPS", (0, 21.6758)),
}
# Where positions and rounded direction cosines of a header contradict each other, dcm2niix believes one and ours the other.
ROUNDED_MM = {"prostate_adc_seg/ADC": 4e-3, "siemens_multiframe": 2e-4}
WELL_FORMED = [name for name in SETS if name != "gantry_tilt"]


@pytest.fixture(scope="module")
def found() -> dict[str, Outcome]:
    return {name: read_folder(DATA / "dicom" / name) for name in SETS}


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_read_whole(name, found) -> None:
    volumes, files, shape, spacing_mm, orientation, bounds = SETS[name]
    assert not found[name].codes
    assert found[name].files == [files] * volumes
    for volume in found[name].volumes:
        canonical = volume.canonical()
        assert canonical.grid.shape == shape
        assert canonical.grid.spacing_mm == pytest.approx(spacing_mm, abs=1e-4)
        assert volume.grid.orientation == orientation
    assert min(volume.voxels.min() for volume in found[name].volumes) == pytest.approx(bounds[0])
    assert max(volume.voxels.max() for volume in found[name].volumes) == pytest.approx(bounds[1], rel=1e-5)


@pytest.mark.parametrize("name", WELL_FORMED)
def test_a_well_formed_set_is_what_dcm2niix_makes_of_it(name, found, tmp_path) -> None:
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed: install the extra `test`")
    from test_dcm2niix import converted, is_equal

    theirs = converted(DATA / "dicom" / name, tmp_path / "out")
    ours = [volume.canonical() for volume in found[name].volumes]
    assert len(ours) == len(theirs)
    assert all(any(is_equal(volume, other, ROUNDED_MM.get(name, 1e-4)) for other in theirs) for volume in ours)


@pytest.mark.parametrize("name", WELL_FORMED)
def test_a_well_formed_set_is_what_simpleitk_makes_of_it(name, found) -> None:
    import SimpleITK as sitk

    if name == "siemens_multiframe" or SETS[name][0] > 1:
        pytest.skip("SimpleITK's series reader knows neither enhanced objects nor time")
    folder = str(DATA / "dicom" / name)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder))
    volume, array = found[name].volumes[0], sitk.GetArrayFromImage(image).T
    corner = (0, 0, array.shape[2] - 1)  # the two may run through the slices from opposite ends
    lps = np.array(image.TransformIndexToPhysicalPoint([int(i) for i in corner]))
    index = np.linalg.inv(volume.grid.affine) @ [-lps[0], -lps[1], lps[2], 1]
    backwards = round(index[2]) == 0
    assert index[:3] == pytest.approx([0, 0, 0 if backwards else array.shape[2] - 1], abs=1e-2)
    assert np.allclose(volume.voxels[0], array[:, :, ::-1] if backwards else array, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_one_patients_dicom_is_the_nifti_of_the_same_scan(modality, found) -> None:
    """Another group converted these files for a benchmark of image features: same grid, same numbers (PET in SUV)."""
    image = nibabel.load(DATA / "ibsi_sts" / "STS_002" / f"{modality}_image.nii.gz")
    volume = found[f"{STS}/{modality}/image"].volumes[0]
    assert np.abs(volume.grid.affine - image.affine).max() <= 1e-3
    assert np.allclose(volume.voxels[0], np.asanyarray(image.dataobj), rtol=1e-5, atol=1e-5)


def test_each_slice_of_a_tilted_gantry_lies_where_its_own_file_puts_it(found) -> None:
    """Its pixels are looked up, by the position and orientation in its file, at the places that the volume's affine gives to its voxels."""
    volume = found["gantry_tilt"].volumes[0]
    columns, rows, _ = volume.grid.shape
    for path in sorted((DATA / "dicom" / "gantry_tilt").iterdir()):
        ds = pydicom.dcmread(path)
        corner, (row, column) = np.array(ds.ImagePositionPatient, float), np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        index = np.linalg.inv(volume.grid.affine) @ [*(corner * [-1, -1, 1]), 1]
        number = round(index[2])
        assert abs(index[2] - number) * volume.grid.spacing_mm[2] <= 0.01
        j, i = np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij")
        points = np.stack([j, i, np.full_like(i, number), np.ones_like(i)], axis=-1) @ volume.grid.affine.T
        away = points[..., :3] * [-1, -1, 1] - corner
        assert np.abs(away @ np.cross(row, column)).max() <= 0.01
        place = np.stack([away @ column / ds.PixelSpacing[0], away @ row / ds.PixelSpacing[1]])
        inside = (place[0] >= 0) & (place[0] <= ds.Rows - 1) & (place[1] >= 0) & (place[1] <= ds.Columns - 1)
        truth = map_coordinates(ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept), place, order=1)
        assert inside.mean() > 0.95
        assert np.abs(volume.voxels[0, :, :, number] - truth)[inside].max() <= 0.1  # HU
