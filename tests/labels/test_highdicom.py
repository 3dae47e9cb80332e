"""highdicom as a cross-check: segmentations that it writes are read as what was put in, and as it reads them itself."""

import numpy as np
import pytest
from drawn import CENTRE, ORIGIN, ball, box, centres, image, plane_of
from faults.phantom import LPS_TO_RAS, turned
from faults.series import save

from pipeline.labels.reading import described, read_labels
from pipeline.labels.rule import rule_of
from pipeline.scans.reading import read_scan

hd = pytest.importorskip("highdicom")
SHAPES = {1: ball(8.0), 2: box(ORIGIN + 3, CENTRE - 4)}
CLASSES = {1: "organ 1", 2: "organ 2"}


def written(slices, kind, shapes, omit=True):
    """As highdicom writes a segmentation of these images."""
    from pydicom.sr.codedict import codes

    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=CLASSES[number], segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver, algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in shapes
    ]  # fmt: skip
    truth = np.stack([np.stack([depth(centres(*plane_of(ds))) > 0 for ds in slices]) for depth in shapes.values()], axis=-1)
    pixels = (truth * np.arange(1, len(shapes) + 1)).max(axis=-1).astype(np.uint8) if kind == "LABELMAP" else truth.astype(np.uint8)
    if kind == "FRACTIONAL":
        pixels = pixels.astype(np.float32) * 0.8
    return hd.seg.Segmentation(
        source_images=slices, pixel_array=pixels, segmentation_type=kind, segment_descriptions=descriptions, series_instance_uid=hd.UID(),
        series_number=5, sop_instance_uid=hd.UID(), instance_number=1, manufacturer="m", manufacturer_model_name="m",
        software_versions="1", device_serial_number="1", omit_empty_frames=omit,
    )  # fmt: skip


def completed(slices):
    """What highdicom asks of an image."""
    for ds in slices:
        ds.PatientBirthDate = ds.PatientSex = ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ""
        ds.ReferringPhysicianName, ds.PositionReferenceIndicator, ds.Manufacturer, ds.SliceThickness = "", "", "", 2.5
    return slices


@pytest.mark.parametrize("turn", [(0, 0, 0), (14, -8, 30)])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_what_highdicom_writes_is_what_was_put_in(kind, turn, tmp_path):
    slices = completed(image(orientation=tuple(turned(*turn)[:, :2].T.ravel())))
    ours = {1: ball(8.0, sum(plane_of(ds)[0] for ds in slices) / len(slices) + turned(*turn) @ [13.0, 17.0, 0.0])}
    paths, path = save(slices, tmp_path / "image"), tmp_path / "seg.dcm"
    written(slices, kind, ours).save_as(path)
    grid = read_scan("dicom", paths).canonical().grid
    found = read_labels([path], rule_of({1: CLASSES[1]}, None, threshold=0.5), grid, ("dicom", paths))
    points = grid.world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)) @ LPS_TO_RAS[:3, :3].T
    deep = ours[1](points)
    sure = np.abs(deep) > 1e-3
    assert (deep > 0).sum() > 300
    assert np.array_equal(found.voxels[0][sure], (deep > 0)[sure].astype(np.uint8))


def test_both_read_the_same(tmp_path):
    slices = completed(image())
    paths, path = save(slices, tmp_path / "image"), tmp_path / "seg.dcm"
    written(slices, "BINARY", SHAPES).save_as(path)
    volume = read_scan("dicom", paths).canonical()
    found = read_labels([path], rule_of(CLASSES, None), volume.grid, ("dicom", paths)).voxels[0]
    theirs = hd.seg.segread(path).get_volume(combine_segments=True)
    for value, count in zip(*np.unique(theirs.array, return_counts=True), strict=True):
        assert value == 0 or (found == value).sum() == count
    places = np.argwhere(theirs.array == 2)
    world = (np.c_[places, np.ones(len(places))] @ theirs.affine.T)[:, :3] @ LPS_TO_RAS[:3, :3].T
    index = np.round(volume.grid.index(world)).astype(int)
    assert (found[tuple(index.T)] == 2).all()
    assert len(places) > 50
    assert [item.codes for item in described(path).structures] == [("SCT:10200004",)] * 2
