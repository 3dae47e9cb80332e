"""`vesalius volume`: what the store holds comes back in physical values, where it lies in the patient."""

import nibabel
import numpy as np
import pytest

from anatomy.grid import Grid
from pipeline.folder import StudyFolder
from pipeline.verbs import volume
from pipeline.volumes.preparation import prepare
from pipeline.volumes.store import Store
from pipeline.volumes.volume import Volume

SCAN = "k3v5q2wz7d4x6yab"


def field(points):
    """Values that are straight in space, so that linear resampling keeps them."""
    return 40 + 3 * points[..., 0] - 2 * points[..., 1] + 5 * points[..., 2]


@pytest.fixture(params=["CT", "MR"])
def study(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = Grid.of((30, 28, 26), (2.0, 1.5, 2.5), (-20.0, 14.0, 33.0))
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    voxels = np.rint(field(grid.world(index))).astype(np.int16)
    labels = (index[..., 0] > 15).astype(np.uint8)
    done = prepare(Volume(voxels[None], grid), (request.param,), {"side": Volume(labels[None].astype(np.int16), grid)}, (3.0, 3.0, 3.0))
    folder = tmp_path / "results/demo"
    Store(StudyFolder(folder).store).write(SCAN, done.voxels, done.body, {**done.meta, "channels": [""]}, done.labels)
    return folder


def test_a_stored_volume_comes_back_with_its_values_at_its_place(study, tmp_path):
    volume.run(SCAN, tmp_path / "x.nii.gz", study)
    image = nibabel.load(tmp_path / "x.nii.gz")
    points = np.moveaxis(np.indices(image.shape), 0, -1) @ image.affine[:3, :3].T + image.affine[:3, 3]
    inner = (slice(2, -2),) * 3
    assert np.abs(image.get_fdata() - field(points))[inner].max() < 1.1
    np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-4)
    np.testing.assert_allclose(image.header.get_zooms(), (3, 3, 3), atol=1e-6)


def test_labels_come_back_and_the_study_is_found_by_itself(study, tmp_path):
    volume.run(SCAN, tmp_path / "l.nii", labels="side")
    image = nibabel.load(tmp_path / "l.nii")
    assert image.get_data_dtype() == np.uint8
    right = np.moveaxis(np.indices(image.shape), 0, -1) @ image.affine[:3, :3].T + image.affine[:3, 3]
    expected = right[..., 0] > -20 + 2 * 15.5
    assert (np.asanyarray(image.dataobj).astype(bool) == expected).mean() > 0.96


def test_what_is_not_there_is_said(study, tmp_path):
    with pytest.raises(ValueError, match="no study in results/ has such a volume"):
        volume.run("a" * 16, tmp_path / "x.nii.gz")
    with pytest.raises(ValueError, match="no labels of 'heart'; it has those of side"):
        volume.run(SCAN, tmp_path / "x.nii.gz", labels="heart")
    with pytest.raises(ValueError, match="channels 0 to 0, not 1"):
        volume.run(SCAN, tmp_path / "x.nii.gz", channel=1)
    with pytest.raises(ValueError, match=r"must end in \.nii\.gz or \.nii"):
        volume.run(SCAN, tmp_path / "x.mha")
    assert list(tmp_path.glob("x*")) == []
