"""Labels that turn out wrong when they are read: their image stays without them, everybody is told, and nothing becomes background."""

import json
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from drawn import ball
from faults.series import save, uid
from tiny_study import STUDY, TASK, TUMOUR, mask, person, planned, segmented, table

from pipeline.files import read_json, write_json
from pipeline.labels.lost import check_lost
from pipeline.reports.contents import refused_section
from pipeline.scans.accounts import read_accounts, write_accounts
from pipeline.verbs import index, preprocess, split
from pipeline.volumes.store import Store

OVERLAP = {**TASK, "on_top": []}
MASKS = {"labels": "{data}/masks", "kind": TASK["kind"]}
APART = {(1, "Hepar Rex"): ball(5.0), (2, "Growth"): lambda points: 0 * ball()(points)}


def prepared(root, task, study=STUDY):
    """The study's folder, once `index` and `preprocess` have run."""
    where = planned(root, task, study)
    index.run(where.root)
    preprocess.run(where.root, "00")
    return where


def accounted(where):
    """What inventory.tsv says of the label files, once the accounts are merged."""
    write_accounts(where, ["00"], *read_accounts(where))
    files = table(where.inventory)
    return files[files["kind"].isin(["nifti"]) | files["status"].isin(["companion", "quarantined"])]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, ""),
        ({"shift": 1.0}, "LABELS_OFF_GRID"),
        ({"values": 0.5, "kind": np.float32}, "LABELS_NOT_WHOLE"),
        ({"values": 7}, "LABELS_VALUES"),
    ],
)
def test_a_mask_must_lie_on_the_grid_of_its_image_and_hold_classes_only(root, change, code, capsys):
    person(root, 1)
    mask(root, 1, **{"values": 2, **change})
    where = prepared(root, MASKS)
    (scan,) = store = Store(where.store)
    assert store.meta(scan)["label_values"] == ({} if code else {"organs": [0, 2]})
    assert store.tasks(scan) == (() if code else ("organs",))
    file = accounted(where).iloc[0]
    assert (file["status"], file["code"], file["scan_id"]) == ("quarantined" if code else "companion", code, scan)
    refused = table(where.quarantine)
    assert refused[["file_id", "scan_id", "stage", "code"]].to_numpy().tolist() == (
        [[file["file_id"], scan, "preprocess", code]] if code else []
    )
    assert (f"labels of task organs of scan {scan} are refused: {code}: they" in capsys.readouterr().out) == bool(code)
    assert (table(where.inventory)["status"] == "volume").sum() == len(table(where.inventory)) - 1


def test_pixels_that_are_wrong_cost_a_segmentation_and_not_its_image(root):
    segmented(person(root, 1), root, "first")
    segmented(person(root, 2), root, "second", APART)
    where = prepared(root, OVERLAP)
    store = Store(where.store)
    manifest = pd.read_parquet(where.shard_manifest("00")).set_index("scan_id")
    by_labels = {tuple(json.loads(labels)): scan for scan, labels in manifest["labels"].items()}
    assert set(by_labels) == {(), ("organs",)}
    assert store.tasks(by_labels[()]) == ()
    files = accounted(where).set_index("scan_id")
    assert files["status"].to_dict() == {by_labels[()]: "quarantined", by_labels["organs",]: "companion"}
    assert files["code"][by_labels[()]] == "LABELS_OVERLAP"
    (reason,) = refused_section(where)["reasons"]
    assert (reason["code"], reason["count"]) == ("LABELS_OVERLAP", 1)
    assert reason["reason"] == "Labels of task organs: Structures of different classes overlap."


def test_structures_that_overlap_go_to_the_later_class_where_the_task_says_so(root):
    segmented(person(root, 1), root, "first")
    where = prepared(root, {**OVERLAP, "overlapping": "last"})
    (scan,) = store = Store(where.store)
    last = store.labels(scan, "organs")
    (scan,) = store = Store(prepared(root, TASK).store)
    assert np.array_equal(last, store.labels(scan, "organs")), "as if the tumour, 2, were on top"


def test_labels_that_are_mended_join_their_image_again(root):
    segmented(person(root, 1), root, "first")
    where = prepared(root, OVERLAP)
    (scan,) = Store(where.store)
    assert accounted(where)["status"].to_list() == ["quarantined"]
    index.run(where.root)
    assert table(where.quarantine)["code"].to_list() == ["LABELS_OVERLAP"], "indexing again does not forget it"
    where = prepared(root, TASK)
    assert Store(where.store).meta(scan)["label_values"] == {"organs": [0, 1, 2]}
    assert accounted(where)["status"].to_list() == ["companion"]
    assert table(where.quarantine).empty


def test_what_was_refused_is_read_again_and_nothing_else(root, capsys):
    segmented(person(root, 1), root, "first")
    segmented(person(root, 2), root, "second", APART)
    where = prepared(root, OVERLAP)
    files = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in where.store.rglob("*") if path.is_file()}
    capsys.readouterr()
    preprocess.run(where.root, "00")
    assert "2 stored (1 of them before), 0 refused" in capsys.readouterr().out
    again = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in where.store.rglob("*") if path.is_file()}
    assert {path: content for path, (_, content) in again.items()} == {path: content for path, (_, content) in files.items()}


def test_classes_that_are_taken_from_a_task_are_noticed_in_what_is_stored(root):
    person(root, 1)
    mask(root, 1, values=2)
    where = prepared(root, MASKS)
    (scan,) = Store(where.store)
    where = prepared(root, {**MASKS, "kind": {"segmentation": {"classes": {1: "liver"}}}})
    assert Store(where.store).tasks(scan) == ()
    assert accounted(where)["code"].to_list() == ["LABELS_VALUES"]


def test_a_file_that_another_task_can_use_stays_a_companion(root):
    segmented(person(root, 1), root, "first")
    (root / "livers.yaml").write_text(json.dumps({**TASK, "segments": {"liver": ["hepar*"], "background": ["*"]}, "on_top": []}))
    where = prepared(root, OVERLAP, {**STUDY, "tasks": ["organs.yaml", "livers.yaml"]})
    (scan,) = store = Store(where.store)
    assert store.meta(scan)["label_values"] == {"livers": [0, 1]}
    assert accounted(where)["status"].to_list() == ["companion"]
    assert table(where.quarantine)["code"].to_list() == ["LABELS_OVERLAP"]


def test_split_tells_how_many_scans_have_labels_left_and_which(root, capsys):
    for number in range(1, 5):
        person(root, number)
        mask(root, number, values=7 if number == 1 else 1)
    where = prepared(root, MASKS)
    store = Store(where.store)
    (lost,) = (scan for scan in store if not store.tasks(scan))
    split.run(where.root)
    assert "split: task organs: 3 scans have labels; those of 1 were refused (LABELS_VALUES 1)" in capsys.readouterr().out
    assert pd.read_parquet(where.manifest).set_index("scan_id")["labels"][lost] == "{}"
    assert table(where.quarantine)["scan_id"].to_list() == [lost]
    more = read_json(where.plan)
    more["study"]["split"]["test"] = 2
    write_json(where.plan, more)
    with pytest.raises(ValueError, match=r"3 subject clusters have labels.*task organs: 3 scans have labels \((\w{16}(, )?){3}\)") as error:
        split.run(where.root)
    assert all(scan in str(error.value) for scan in store)
    assert f"labels of 1 were refused ({lost} LABELS_VALUES)" in str(error.value)


@pytest.mark.parametrize(("most", "message"), [(0.5, ""), (0.4, "that is 50%, and max_refused of the study allows 40%")])
def test_too_many_labels_that_are_refused_stop_the_study(most, message):
    lost = {"organs": {f"gone{number:02d}": "LABELS_VALUES" for number in range(30)}}
    labelled = {"organs": [f"left{number:02d}" for number in range(30)], "livers": []}
    if not message:
        check_lost(lost, labelled, most)
        return
    with pytest.raises(ValueError, match=message) as error:
        check_lost(lost, labelled, most)
    assert "LABELS_VALUES: The label volume holds a value" in str(error.value)
    assert "left19 and 10 more), and the labels of 30 were refused (gone00 LABELS_VALUES, " in str(error.value)


def test_a_task_that_loses_all_its_labels_stops_the_study_whatever_it_allows(root):
    for number in range(1, 3):
        person(root, number)
        mask(root, number, values=1, shift=1.0)
    where = prepared(root, MASKS, {**STUDY, "max_refused": 1.0})
    with pytest.raises(ValueError, match=r"tasks\.organs: 0 scans have labels, and the labels of 2 were refused .*none is left") as error:
        split.run(where.root)
    assert "Resample the labels onto the grid of their image." in str(error.value)
    assert "crosswalk.tsv" in str(error.value)
    assert table(where.quarantine)["code"].to_list() == ["LABELS_OFF_GRID"] * 2, "the accounts are written first"


def test_a_label_file_that_cannot_be_read_at_all_is_its_own_row(root):
    person(root, 1)
    mask(root, 1, values=1)
    path = root / "masks/1.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    where = prepared(root, MASKS)
    assert len(Store(where.store).names()) == 1
    assert accounted(where)["code"].to_list() == ["TRUNCATED"]
    assert table(where.quarantine)["reason"].to_list() == ["Labels of task organs: The file ends before its voxels do."]


def test_an_image_that_is_refused_takes_no_labels_with_it_into_the_quarantine(root):
    person(root, 1)
    mask(root, 1, values=7)
    where = planned(root, MASKS)
    index.run(where.root)
    file = next((root / "scans/1").iterdir())
    file.write_bytes(file.read_bytes()[:-100])
    preprocess.run(where.root, "00")
    assert accounted(where)["status"].isin(["companion", "quarantined"]).all()
    refused = table(where.shard_refused("00"))
    assert refused["file_id"].to_list() == [""]
    assert refused["task"].to_list() == [""]


def test_tumour_and_liver_do_overlap():
    points = np.stack(np.meshgrid(*[np.linspace(-30, 30, 40)] * 3, indexing="ij"), axis=-1)
    assert ((TUMOUR(points) > 0) & (ball()(points) > 0)).any()


def test_labels_of_a_time_point_that_is_left_out_are_laid_on_no_other(root):
    first = person(root, 1)
    second = deepcopy(first)
    for number, ds in enumerate(second):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("later", number)
        ds.InstanceNumber, ds.AcquisitionNumber = 100 + number, 2
    save(second, root / "scans" / "2")
    segmented(second, root, "second")
    where = planned(root, TASK, {**STUDY, "sources": [{"path": "{data}/scans", "four_d": "first"}]})
    with pytest.raises(ValueError, match=r"tasks\.organs: no DICOM segmentation"):
        index.run(where.root)
    assert table(where.quarantine)["code"].to_list() == ["LABELS_WITHOUT_IMAGE"]
    assert table(where.inventory)["status"].value_counts().to_dict() == {"volume": 12, "left_out": 12, "quarantined": 1}
    where = planned(root, TASK)
    index.run(where.root)
    assert "organs" in table(where.shard("00"))["labels"].str.cat()
