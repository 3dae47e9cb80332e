"""NRRD and MetaImage files of several volumes: every case right or refused with its reason, by each policy, and as SimpleITK reads them."""

import numpy as np
import pytest
from faults.outcome import read_tree
from faults.phantom import LPS_TO_RAS, turned
from faults.several import COUNT, SEVERAL, volumes

from pipeline.scans.formats import payload
from pipeline.scans.identity import Identity
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.reading import read_scan

GOOD = [name for name, case in SEVERAL.items() if case.volumes == COUNT]


@pytest.mark.parametrize("name", SEVERAL)
def test_every_volume_is_read_right_or_the_file_refused_with_its_reason(name, tmp_path):
    case = SEVERAL[name]
    case.build(tmp_path / "in")
    assert case.verdict(read_tree(tmp_path / "in", four_d="split")) == ("right" if case.volumes else "refused")


@pytest.mark.parametrize("name", GOOD[:9:2] + GOOD[-4::2])
def test_without_a_policy_they_are_refused_and_first_takes_one(name, tmp_path):
    SEVERAL[name].build(tmp_path / "in")
    refused = read_tree(tmp_path / "in")
    assert (refused.volumes, refused.codes) == ([], {"DIMENSIONS"})
    first = read_tree(tmp_path / "in", four_d="first")
    assert len(first.volumes) == 1
    assert np.array_equal(first.volumes[0].voxels[0], np.rint(volumes()[..., 0]))


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.parametrize("gather", [1, 700, 2161])
@pytest.mark.parametrize("axis", range(4))
def test_interleaved_volumes_are_the_same_however_many_blocks_are_held(axis, gather, number, tmp_path, monkeypatch):
    SEVERAL[f"nrrd list as axis {axis} in gzip"].build(tmp_path)
    monkeypatch.setattr(payload, "GATHER", gather)
    volume = read_scan(f"metaimage:{number}", [tmp_path / "scan.nrrd"])
    assert np.array_equal(volume.voxels[0], np.rint(volumes()[..., number]))


def test_a_volume_that_is_gone_is_a_file_that_changed(tmp_path):
    SEVERAL["metaimage raw"].build(tmp_path)
    (scan, *_) = take_stock([Place(tmp_path, "scans", four_d="split")], Identity(bytes(32))).scans
    assert scan.kind == "metaimage:0"
    with pytest.raises(Refused) as refused:
        read_scan(f"metaimage:{COUNT}", scan.paths)
    assert refused.value.code is Code.CHANGED


def test_volumes_of_a_detached_file_share_its_voxels(tmp_path):
    SEVERAL["nrrd detached"].build(tmp_path)
    found = take_stock([Place(tmp_path, "scans", four_d="split")], Identity(bytes(32)))
    assert [file.status for file in found.files] == ["volume", "volume"]
    assert {file.scan_id for file in found.files} == {" ".join(scan.scan_id for scan in found.scans)}
    assert {scan.detached for scan in found.scans} == {(tmp_path / "voxels.raw",)}
    assert len({scan.exam_id for scan in found.scans}) == 1


@pytest.mark.parametrize("axis", [0, 3])
def test_simpleitk_reads_the_same_of_a_list_in_nrrd(axis, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    SEVERAL[f"nrrd list as axis {axis}"].build(tmp_path)
    image = sitk.ReadImage(str(tmp_path / "scan.nrrd"))  # a volume of vectors
    for number in range(COUNT):
        volume = read_scan(f"metaimage:{number}", [tmp_path / "scan.nrrd"])
        assert np.array_equal(volume.voxels[0], sitk.GetArrayFromImage(image)[..., number].transpose(2, 1, 0))
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        assert np.abs(volume.grid.affine - LPS_TO_RAS @ affine).max() < 1e-6


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_what_simpleitk_writes_in_four_dimensions_is_read_equally(name, packed, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    images = [sitk.GetImageFromArray((np.arange(5 * 6 * 7).reshape(5, 6, 7) * (n + 1)).astype("int16")) for n in range(COUNT)]
    for image in images:
        image.SetDirection((turned(10, -20, 30) * [-1, 1, 1]).ravel())
        image.SetSpacing((1.5, 1.25, 2.5))
        image.SetOrigin((-9, 6, 3))
    sitk.WriteImage(sitk.JoinSeries(images, 11.0, 2.0), str(tmp_path / name), useCompression=packed)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(images[0].GetDirection(), (3, 3)) * images[0].GetSpacing()
    affine[:3, 3] = images[0].GetOrigin()
    for number, image in enumerate(images):
        volume = read_scan(f"metaimage:{number}", [tmp_path / name])
        assert np.array_equal(volume.voxels[0], sitk.GetArrayFromImage(image).transpose(2, 1, 0))
        assert np.abs(volume.grid.affine - LPS_TO_RAS @ affine).max() < 1e-6
