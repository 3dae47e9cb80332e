"""Labels find their image by what they refer to; all that headers say against it is found by `index`."""

from pathlib import Path

import pydicom
import pytest
from drawn import CENTRE, ORIGIN, ball, box, image, make_segmentation, make_structure_set, outline, rectangle, write
from faults.series import make_enhanced, save, uid

from pipeline.labels.matching import check_tasks, match_companions
from pipeline.labels.rule import rule_of
from pipeline.scans.identity import Identity
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.quarantine import Code

IDENTITY = Identity(bytes(32))
RULES = {"organs": rule_of({1: "liver"}, None)}
LIVER = {(1, "liver"): ball()}


def matched(root: Path, rules=RULES, channels=(), folder: str | None = None):
    """(inventory, owners, names) of a tree; ``folder``: that of the labels, else they are among the scans."""
    places = [Place(root / folder, "labels", task="organs")] if folder else []
    found = take_stock([*places, Place(root, "scans")], IDENTITY, channels)
    owners, names = match_companions(found, rules, () if folder else tuple(rules), IDENTITY, channels)
    return found, owners, names


def codes(found):
    return {file.path.name: file.code for file in found.files if file.path.suffix == ".dcm" and file.code}


def two_series(root: Path):
    """Two series of one study, each with its own segmentation under a name that misleads."""
    first, second = image(series="A"), image(series="B", offset=40.0)
    save(first, root / "one")
    save(second, root / "two")
    write(make_segmentation(first, LIVER), root / "two" / "s2.dcm")
    ds = make_segmentation(second, LIVER)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("second segmentation")
    write(ds, root / "one" / "s1.dcm")
    return first, second


def owner_names(found, owners):
    """Folder of the image -> name of the label file."""
    scans, files = {scan.scan_id: scan for scan in found.scans}, {file.file_id: file for file in found.files}
    return {scans[scan].paths[0].parent.name: files[tasks["organs"][0]].path.name for scan, tasks in owners.items()}


def test_labels_go_to_the_series_that_they_refer_to_whatever_they_are_called(tmp_path):
    two_series(tmp_path)
    found, owners, names = matched(tmp_path)
    assert owner_names(found, owners) == {"one": "s2.dcm", "two": "s1.dcm"}
    assert not codes(found)
    assert {item.structure.name: item.value for item in names} == {"liver": "1"}
    labelled = [file for file in found.files if file.path.suffix == ".dcm"]
    assert all(file.status == "companion" and len(file.scan_ids) == 1 for file in labelled)


def test_a_folder_of_labels_may_lie_beside_the_scans_or_hold_them(tmp_path):
    slices = image()
    save(slices, tmp_path / "scans")
    write(make_segmentation(slices, LIVER), tmp_path / "scans" / "seg.dcm")
    found, owners, _ = matched(tmp_path, folder="scans")
    assert len(owners) == len(found.scans) == 1
    assert sum(file.status == "volume" for file in found.files) == len(slices)
    assert len({file.path for file in found.files}) == len(found.files) == len(slices) + 1, "every file stands once"


def test_images_in_a_folder_of_labels_that_is_no_source_are_accounted_for(tmp_path):
    slices, other = image(), image(series="B")
    save(slices, tmp_path / "scans")
    save(other, tmp_path / "labels")
    write(make_segmentation(slices, LIVER), tmp_path / "labels" / "seg.dcm")
    places = [Place(tmp_path / "labels", "labels", task="organs"), Place(tmp_path / "scans", "scans")]
    found = take_stock(places, IDENTITY)
    owners, _ = match_companions(found, RULES, (), IDENTITY)
    assert len(owners) == len(found.scans) == 1
    assert len(found.files) == len(slices) + len(other) + 1
    assert sum(file.status == "not_image" for file in found.files) == len(other)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda ds: [delattr(ds, "ReferencedSeriesSequence")]
         + [delattr(own, "DerivationImageSequence") for own in ds.PerFrameFunctionalGroupsSequence], Code.LABELS_UNREFERENCED),
        (lambda ds: setattr(ds.ReferencedSeriesSequence[0], "SeriesInstanceUID", uid("elsewhere")), Code.LABELS_WITHOUT_IMAGE),
        (lambda ds: setattr(ds, "PatientID", "P2"), Code.LABELS_PATIENT),
        (lambda ds: setattr(ds, "FrameOfReferenceUID", uid("elsewhere")), Code.LABELS_FRAME),
        (lambda ds: setattr(ds.SegmentSequence[0], "SegmentLabel", "tumour"), None),
        (lambda ds: ds.SegmentSequence.append(pydicom.Dataset(ds.SegmentSequence[0])), Code.LABELS_NUMBERS),
        (lambda ds: setattr(ds, "SegmentSequence", None), Code.LABELS_NUMBERS),
    ],
)  # fmt: skip
def test_what_headers_say_against_labels_is_found_by_the_index(tmp_path, spoil, code):
    slices = image()
    save(slices, tmp_path / "scans")
    ds = make_segmentation(slices, LIVER)
    spoil(ds)
    write(ds, tmp_path / "scans" / "seg.dcm")
    found, owners, _ = matched(tmp_path)
    assert not owners
    assert codes(found).get("seg.dcm") == code


def test_labels_that_name_no_series_go_to_the_image_that_they_cite(tmp_path):
    first, _ = two_series(tmp_path)
    for path in tmp_path.rglob("s?.dcm"):
        path.unlink()
    ds = make_segmentation(first, LIVER)
    del ds.ReferencedSeriesSequence
    write(ds, tmp_path / "labels.dcm")
    found, owners, _ = matched(tmp_path)
    assert owner_names(found, owners) == {"one": "labels.dcm"}


def time_points(slices_of=lambda number: image(offset=7.5 * number)):
    """Two volumes of one series, told apart by their time points."""
    found = []
    for number in range(2):
        for ds in slices_of(number):
            ds.TemporalPositionIdentifier = number + 1
            ds.InstanceNumber = int(ds.InstanceNumber) + 100 * number
            found.append(ds)
    return found


def test_of_several_volumes_in_a_series_labels_find_the_one_whose_slices_they_cite(tmp_path):
    slices = time_points()
    save(slices, tmp_path / "scans")
    write(make_segmentation(slices[len(slices) // 2 :], LIVER), tmp_path / "seg.dcm")
    found, owners, _ = matched(tmp_path)
    assert len(found.scans) == 2
    (owner,) = owners
    (scan,) = [scan for scan in found.scans if scan.scan_id == owner]
    assert {pydicom.dcmread(path).TemporalPositionIdentifier for path in scan.paths} == {2}


def test_labels_that_cite_several_volumes_belong_to_none(tmp_path):
    slices = time_points()
    save(slices, tmp_path / "scans")
    ds = make_segmentation(slices[: len(slices) // 2], LIVER)
    cited = ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    cited.ReferencedSOPInstanceUID = slices[-1].SOPInstanceUID
    write(ds, tmp_path / "seg.dcm")
    found, owners, _ = matched(tmp_path)
    assert not owners
    assert codes(found) == {"seg.dcm": Code.LABELS_AMBIGUOUS}


def test_of_the_stacks_of_one_object_labels_find_the_one_whose_frames_they_cite(tmp_path):
    """``dicom:0`` and ``dicom:1`` of an enhanced object with two time points."""
    slices = image(count=6)
    later = image(count=6, offset=50.0)
    both = [*slices, *later]
    content = [{"TemporalPositionIndex": 1 + (number >= 6)} for number in range(12)]
    whole = make_enhanced(both, content=content)
    write(whole, tmp_path / "scans" / "image")
    shape = {(1, "liver"): box(ORIGIN + 2, ORIGIN + 11)}
    for number, name in ((1, "early.dcm"), (7, "late.dcm")):
        ds = make_segmentation(slices, shape, enhanced=whole)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(name)
        for own in ds.PerFrameFunctionalGroupsSequence:
            cited = own.DerivationImageSequence[0].SourceImageSequence[0]
            cited.ReferencedFrameNumber = int(cited.ReferencedFrameNumber) - 1 + number
        write(ds, tmp_path / "labels" / name)
    found, owners, _ = matched(tmp_path)
    files = {file.file_id: file.path.name for file in found.files}
    assert {scan.kind: files[owners[scan.scan_id]["organs"][0]] for scan in found.scans} == {"dicom:0": "early.dcm", "dicom:1": "late.dcm"}


def test_labels_of_a_volume_that_was_refused_go_to_no_other_of_its_series(tmp_path):
    slices = time_points()
    del slices[3]  # a hole in the first volume
    save(slices, tmp_path / "scans")
    write(make_segmentation(slices[:11], LIVER), tmp_path / "seg.dcm")
    found, owners, _ = matched(tmp_path)
    assert len(found.scans) == 1
    assert not owners
    assert codes(found) == {"seg.dcm": Code.LABELS_WITHOUT_IMAGE}


def test_objects_with_a_class_each_are_laid_together_but_no_class_comes_twice(tmp_path):
    slices = image()
    save(slices, tmp_path / "scans")
    rules = {"organs": rule_of({1: "liver", 2: "spleen"}, None)}
    shapes = [{(1, "liver"): box(ORIGIN + 2, CENTRE)}, {(1, "spleen"): box(CENTRE, CENTRE + 7)}]
    for number, shape in enumerate(shapes):
        ds = make_segmentation(slices, shape)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("object", number)
        write(ds, tmp_path / f"{number}.dcm")
    found, owners, _ = matched(tmp_path, rules)
    ((tasks,),) = (list(owners.values()),)
    assert len(tasks["organs"]) == 2
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("a second reader")
    write(ds, tmp_path / "2.dcm")
    found, owners, _ = matched(tmp_path, rules)
    assert not owners
    assert set(codes(found).values()) == {Code.LABELS_AMBIGUOUS}


def test_a_class_that_no_object_holds_is_missed(tmp_path):
    slices = image()
    save(slices, tmp_path / "scans")
    write(make_segmentation(slices, LIVER), tmp_path / "seg.dcm")
    classes = {1: "liver", 2: "tumour"}
    found, owners, _ = matched(tmp_path, {"organs": rule_of(classes, None)})
    assert codes(found) == {"seg.dcm": Code.LABELS_ABSENT}
    assert len(matched(tmp_path, {"organs": rule_of(classes, None, may_be_absent=(2,))})[1]) == 1
    assert not owners


def test_a_copy_counts_once_and_two_that_differ_count_not_at_all(tmp_path):
    slices = image()
    save(slices, tmp_path / "scans")
    ds = make_segmentation(slices, LIVER)
    for name in ("a.dcm", "copy.dcm"):
        write(ds, tmp_path / name)
    found, owners, _ = matched(tmp_path)
    assert len(owners) == 1
    assert not codes(found)
    ds.ContentDescription = "changed"
    write(ds, tmp_path / "copy.dcm")
    found, owners, _ = matched(tmp_path)
    assert not owners
    assert codes(found) == {"a.dcm": Code.CONFLICT, "copy.dcm": Code.CONFLICT}


def test_an_object_may_serve_several_tasks_and_fail_one(tmp_path):
    slices = image()
    save(slices, tmp_path / "scans")
    write(make_segmentation(slices, {(1, "liver"): box(ORIGIN + 2, CENTRE), (2, "spleen"): box(CENTRE, CENTRE + 7)}), tmp_path / "seg.dcm")
    rules = {
        "one": rule_of({1: "liver"}, {1: ["liver"], 0: ["*"]}),
        "two": rule_of({1: "spleen"}, {1: ["spleen"], 0: ["*"]}),
        "strict": rule_of({1: "liver"}, None),
        "other": rule_of({1: "kidney"}, None),
    }
    found, owners, names = matched(tmp_path, rules)
    (tasks,) = owners.values()
    assert set(tasks) == {"one", "two"}
    assert [part.code for part in found.parts] == [Code.LABELS_SEGMENTS]
    assert {(item.task, item.structure.name, item.value) for item in names} == {
        ("one", "liver", "1"), ("one", "spleen", "0"), ("two", "liver", "0"), ("two", "spleen", "1"), ("strict", "liver", "1"),
        ("strict", "spleen", ""),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"tasks\.other: no DICOM segmentation.*segments\.tsv"):
        check_tasks(found, owners, {"one": "", "other": ""})


def test_a_structure_set_finds_its_image_by_series_or_by_contours(tmp_path):
    slices = image()
    save(slices, tmp_path / "scans")
    regions = {(1, "liver"): [(number, outline(slices[number], rectangle((3.5, 2.5), (9.5, 9.5)))) for number in range(3, 6)]}
    write(make_structure_set(slices, regions, series=False), tmp_path / "by_contours.dcm")
    assert len(matched(tmp_path)[1]) == 1
    write(make_structure_set(slices, regions, cites=False), tmp_path / "by_contours.dcm")
    assert len(matched(tmp_path)[1]) == 1
    write(make_structure_set(slices, regions, cites=False, series=False), tmp_path / "by_contours.dcm")
    found, owners, _ = matched(tmp_path)
    assert not owners
    assert codes(found) == {"by_contours.dcm": Code.LABELS_UNREFERENCED}


def test_without_a_task_that_asks_for_them_segmentations_are_not_even_opened(tmp_path):
    slices = image()
    save(slices, tmp_path / "scans")
    ds = make_segmentation(slices, LIVER)
    ds.SegmentSequence = None
    path = write(ds, tmp_path / "seg.dcm")
    found, owners, names = matched(tmp_path, {})
    assert not owners
    assert not names
    assert [file.status for file in found.files if file.path == path] == ["companion"]


def test_channels_of_one_exam_take_labels_drawn_on_both(tmp_path):
    first, second = image(series="A", modality="MR"), image(series="B", modality="CT")
    save(first, tmp_path / "one")
    save(second, tmp_path / "two")
    ds = make_segmentation(first, LIVER)
    ds.ReferencedSeriesSequence.append(make_segmentation(second, LIVER).ReferencedSeriesSequence[0])
    for own in ds.PerFrameFunctionalGroupsSequence:
        del own.DerivationImageSequence
    write(ds, tmp_path / "seg.dcm")
    assert codes(matched(tmp_path)[0]) == {"seg.dcm": Code.LABELS_AMBIGUOUS}
    found, owners, _ = matched(tmp_path, channels=("CT", "MR"))
    (owner,) = owners
    assert next(scan for scan in found.scans if scan.scan_id == owner).channel == "CT"
