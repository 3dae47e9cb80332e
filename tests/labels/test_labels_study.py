"""DICOM labels and masks through `index`, `preprocess` and `forget`, as a study meets them."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from drawn import CENTRE, ball, image, make_segmentation, make_structure_set, outline, write
from faults.phantom import LPS_TO_RAS
from faults.series import save, uid

from pipeline.configuration import read_config
from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.labels.companion import Structure
from pipeline.labels.names import names_path
from pipeline.plan import make_plan, plan_json
from pipeline.scans.identity import study_private
from pipeline.task import Task
from pipeline.verbs import forget, index, preprocess
from pipeline.volumes.store import Store

TASK = {
    "segments": {"liver": ["hepar*"], "tumour": ["code:SCT:777"], "background": ["couch"]}, "may_be_absent": ["tumour"], "on_top": [2],
    "kind": {"segmentation": {"classes": {1: "liver", 2: "tumour"}}},
}  # fmt: skip
STUDY = {
    "sources": [{"path": "{data}/scans"}], "shards": 1, "split": {"test": 1, "validation": 1}, "preprocess": {"crop_body": False},
    "tasks": ["organs.yaml"],
    "finetune": {"num_labels": [1]},
}  # fmt: skip
TUMOUR = ball(5.0, CENTRE + 2)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    return tmp_path


def person(root: Path, number: int, **options):
    """The slices of one person's scan, written and given back."""
    slices = image(series=f"p{number}", shape=(32, 36), **options)
    rng = np.random.default_rng(number)
    for ds in slices:
        ds.PatientID, ds.StudyInstanceUID = f"PERSON{number}", uid("study", number)
        pixels = np.frombuffer(ds.PixelData, np.uint16) + rng.integers(0, 300, ds.Rows * ds.Columns).astype(np.uint16)
        ds.PixelData = pixels.tobytes()
    save(slices, root / "scans" / f"{number}")
    return slices


def planned(root: Path, task=TASK, study=STUDY) -> StudyFolder:
    (root / "organs.yaml").write_text(yaml.safe_dump(task))
    (root / "tiny.yaml").write_text(yaml.safe_dump(study))
    plan = make_plan(root / "tiny.yaml", str(root), str(root / "results"))
    where = StudyFolder(Path(plan.results))
    write_json(where.plan, plan_json(plan))
    return where


def segmented(slices, root: Path, name: str, shapes=None):
    ds = make_segmentation(slices, shapes or {(1, "Hepar Rex"): ball(), (2, "Growth of Jane"): TUMOUR})
    ds.SegmentSequence[-1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "777"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(name)
    return write(ds, root / "scans" / f"{name}.dcm")


def drawn(slices, root: Path, name: str):
    """A structure set of a liver (a box of contours) and a couch."""
    corners = [(4.5, 5.5), (20.5, 5.5), (20.5, 15.5), (4.5, 15.5)]
    regions = {
        (1, "hepar"): [(number, outline(slices[number], corners)) for number in range(2, 9)],
        (2, "COUCH"): [(number, outline(slices[number], np.array(corners) * 50)) for number in range(2, 9)],
    }
    return write(make_structure_set(slices, regions), root / "scans" / f"{name}.dcm")


def truth(store: Store, scan: str) -> np.ndarray:
    """(D, H, W, 3) LPS mm of the stored voxels."""
    affine, shape = np.reshape(store.meta(scan)["affine"], (4, 4)), store.shape(scan)[1:]
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    return points @ LPS_TO_RAS[:3, :3]


def test_segmentations_and_structure_sets_become_stored_labels(root):
    first, second = person(root, 1), person(root, 2)
    person(root, 3)
    segmented(first, root, "first")
    drawn(second, root, "second")
    where = planned(root)
    index.run(where.root)
    preprocess.run(where.root, "00")
    manifest = pd.read_parquet(where.shard_manifest("00"))
    found = {json.loads(row.labels).get("organs") and tuple(json.loads(row.labels)["organs"]): row.scan_id for row in manifest.itertuples()}
    assert set(found) == {None, (0, 1), (0, 1, 2)}
    store, scan = Store(where.store), found[0, 1, 2]
    points = truth(store, scan)
    expected = np.where(TUMOUR(points) > 0, 2, np.where(ball()(points) > 0, 1, 0))
    assert np.array_equal(store.labels(scan, "organs"), expected)
    inventory = pd.read_csv(where.inventory, sep="\t", keep_default_na=False)
    assert (inventory["status"] == "companion").sum() == 2
    assert set(inventory.loc[inventory["status"] == "companion", "scan_id"]) == {found[0, 1], found[0, 1, 2]}


def test_names_of_structures_stand_in_the_private_folder_alone(root):
    segmented(person(root, 1), root, "first")
    person(root, 2)
    where = planned(root)
    index.run(where.root)
    names = names_path(where)
    assert names.parent == study_private(where)
    assert names.stat().st_mode & 0o777 == 0o600
    rows = pd.read_csv(names, sep="\t", dtype=str)
    assert list(rows["name"]) == ["Hepar Rex", "Growth of Jane"]
    assert list(rows["value"]) == ["1", "2"]
    public = b"".join(path.read_bytes() for path in where.root.rglob("*") if path.is_file() and path != where.plan)
    assert b"Hepar" not in public
    assert b"Jane" not in public
    forget.run(where.root, "PERSON1")
    assert "Jane" not in names.read_text()


def test_names_that_no_class_takes_are_counted_in_the_message_and_listed_in_private(root, capsys):
    segmented(person(root, 1), root, "first", {(1, "Hepar Rex"): ball(), (2, "Secret"): TUMOUR, (3, "x"): ball(1.0)})
    where = planned(root)
    with pytest.raises(ValueError, match=r"tasks\.organs: .*quarantine\.tsv says why, and segments\.tsv") as error:
        index.run(where.root)
    assert "Secret" not in str(error.value) + capsys.readouterr().out
    assert pd.read_csv(where.quarantine, sep="\t")["code"].tolist() == ["LABELS_SEGMENTS"]
    rows = pd.read_csv(names_path(where), sep="\t", dtype=str, keep_default_na=False)
    assert dict(zip(rows["name"], rows["value"], strict=True)) == {"Hepar Rex": "1", "Secret": "", "x": "2"}


def test_a_changed_rule_reads_the_labels_again(root):
    segmented(person(root, 1), root, "first")
    where = planned(root)
    index.run(where.root)
    preprocess.run(where.root, "00")
    store = Store(where.store)
    (scan,) = store
    before = (store.labels(scan, "organs") == 2).sum()
    planned(root, {**TASK, "on_top": [1]})
    index.run(where.root)
    preprocess.run(where.root, "00")
    after = (Store(where.store).labels(scan, "organs") == 2).sum()
    assert before > 50
    assert after == 0, "the liver lies on top now"


def test_pixels_that_are_wrong_stop_preprocess_with_one_message(root):
    segmented(person(root, 1), root, "first")
    where = planned(root, {**TASK, "on_top": []})
    index.run(where.root)
    with pytest.raises(
        ValueError, match=r"1 scans have labels that don't match them.*\n  scan [a-z2-7]{16}: LABELS_OVERLAP: labels of task"
    ):
        preprocess.run(where.root, "00")
    assert not list(Store(where.store))


def mask(root: Path, number: int, values, shift=0.0, kind=np.uint8):
    """A NIfTI mask on the grid of a person's DICOM series."""
    from pipeline.scans.reading import read_scan

    paths = sorted((root / "scans" / str(number)).iterdir())
    grid = read_scan("dicom", paths).grid
    affine = grid.affine.copy()
    affine[0, 3] += shift
    (root / "masks").mkdir(exist_ok=True)
    array = np.zeros(grid.shape, kind)
    array[5:9, 5:9, 3:6] = values
    nibabel.save(nibabel.Nifti1Image(array, affine), root / "masks" / f"{number}.nii.gz")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, ""),
        ({"shift": 1.0}, "LABELS_OFF_GRID"),
        ({"values": 0.5, "kind": np.float32}, "LABELS_NOT_WHOLE"),
        ({"values": 7}, "LABELS_VALUES"),
    ],
)
def test_a_mask_must_lie_on_the_grid_of_its_image_and_hold_classes_only(root, change, code):
    person(root, 1)
    mask(root, 1, **{"values": 2, **change})
    where = planned(root, {"labels": "{data}/masks", "kind": TASK["kind"]})
    index.run(where.root)
    if not code:
        preprocess.run(where.root, "00")
        (scan,) = Store(where.store)
        assert Store(where.store).meta(scan)["label_values"] == {"organs": [0, 2]}
        return
    with pytest.raises(ValueError, match=rf"scan [a-z2-7]{{16}}: {code}: labels of task organs"):
        preprocess.run(where.root, "00")


def test_the_example_of_the_page_is_the_one_that_can_be_run():
    root = Path(__file__).parents[2]
    text = (root / "configs" / "tasks" / "dicom_segments.yaml").read_text()
    assert text.partition("clinics gave them.\n")[2] in (root / "docs" / "labels.md").read_text()
    rule = read_config(root / "configs" / "tasks" / "dicom_segments.yaml", Task).rule()
    names = {"Hepar": 1, "GTV_Mass_CT": 2, "Tumor  left": 2, "tumour": 2, "BODY": 0, "kidney": None, "liver": 1}
    assert {name: rule.value_of(Structure(1, name)) for name in names} == names
    assert rule.value_of(Structure(1, "x", ("SCT:10200004",))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": {"kidney": ["a"]}}, "segments: 'kidney' is no class under `kind`; there are 1: liver, 2: tumour"),
        ({"on_top": [3]}, "on_top: 3 is no class"),
        ({"may_be_absent": ["Tumour"]}, "may_be_absent: 'Tumour' is no class"),
        ({"threshold": 0}, "threshold"),
    ],
)
def test_a_task_that_names_no_class_of_its_own_is_refused(root, change, message):
    with pytest.raises(ValueError, match=message):
        planned(root, {**TASK, **change})


def test_settings_that_are_not_given_leave_a_transfers_name_as_it_was(root):
    plain = {"labels": "{data}/masks", "kind": TASK["kind"]}
    (root / "masks").mkdir()
    names = []
    for task in (plain, {**plain, "threshold": 0.5}):
        (root / "organs.yaml").write_text(yaml.safe_dump(task))
        (root / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
        names.append(make_plan(root / "tiny.yaml", str(root), str(root / "results")).transfers[0].transfer)
        assert ("threshold" in make_plan(root / "tiny.yaml", str(root)).task_value("organs").settings()) == ("threshold" in task)
    assert names[0] != names[1]
