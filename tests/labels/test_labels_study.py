"""DICOM labels and masks through `index`, `preprocess` and `forget`, as a study meets them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from drawn import ball
from faults.phantom import LPS_TO_RAS
from tiny_study import STUDY, TASK, TUMOUR, drawn, person, planned, segmented

from pipeline.configuration import read_config
from pipeline.labels.companion import Structure
from pipeline.labels.names import names_path
from pipeline.plan import make_plan
from pipeline.scans.identity import study_private
from pipeline.task import Task
from pipeline.verbs import forget, index, preprocess
from pipeline.volumes.store import Store


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
