"""NRRD and MetaImage as SimpleITK writes them are read as SimpleITK reads them."""

import numpy as np
import pytest
from faults.phantom import LPS_TO_RAS, turned
from faults.text_files import mha, nrrd

from pipeline.scans.formats.metaimage import detached_of, read_metaimage

sitk = pytest.importorskip("SimpleITK")


def by_itk(path) -> tuple[np.ndarray, np.ndarray]:
    """(voxels, affine to RAS+ mm)."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine


@pytest.mark.parametrize("kind", ["int16", "uint8", "float32"])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_simpleitk_writes_is_read_equally(tmp_path, name, kind, packed):
    image = sitk.GetImageFromArray((np.arange(5 * 6 * 7).reshape(5, 6, 7) % 251).astype(kind))
    image.SetDirection((turned(10, -20, 30) * [-1, 1, 1]).ravel())
    image.SetSpacing((1.5, 1.25, 2.5))
    image.SetOrigin((-9, 6, 3))
    sitk.WriteImage(image, str(tmp_path / name), useCompression=packed)
    volume = read_metaimage(tmp_path / name)
    voxels, affine = by_itk(tmp_path / name)
    assert np.array_equal(volume.voxels[0], voxels)
    assert np.abs(volume.grid.affine - affine).max() < 1e-6
    assert set(detached_of(tmp_path / name)) == set(tmp_path.iterdir()) - {tmp_path / name}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("name", "write"), [("a.nrrd", nrrd), ("a.mha", mha)])
def test_the_cases_are_made_as_simpleitk_understands_them(tmp_path, name, write, order):
    (tmp_path / name).write_bytes(write(order=order))
    voxels, affine = by_itk(tmp_path / name)
    volume = read_metaimage(tmp_path / name)
    assert np.array_equal(volume.voxels[0], voxels)
    assert np.abs(volume.grid.affine - affine).max() < 1e-6
