"""`init` on DICOM with segmentations and structure sets: a task with the names that were found, which can be planned and indexed."""

import json

import pytest
import yaml
from drawn import ball, image, make_segmentation, make_structure_set, outline, write
from faults.series import save, uid

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.plan import make_plan, plan_json
from pipeline.verbs import index, init


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Four patients in folders of one name, three of them with labels beside or among their images; one series of labels alone."""
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    for number in range(4):
        slices = image(series=f"p{number}")
        for ds in slices:
            ds.PatientID, ds.StudyInstanceUID = f"PERSON{number}", uid("study", number)
        save(slices, tmp_path / "archive" / str(number) / "CT")
        if number < 2:
            ds = make_segmentation(slices, {(1, "Liver, [whole]"): ball()})
        else:
            ring = [(4, outline(slices[4], [(4.5, 5.5), (20.5, 5.5), (20.5, 15.5)]))]
            regions = {(1, "liver"): ring, (2, "Couch"): ring}
            ds = make_structure_set(slices, regions)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("labels", number)
        if number < 3:
            write(ds, tmp_path / "archive" / str(number) / ("CT" if number == 1 else "labels") / "x.dcm")
    return tmp_path / "archive"


def test_labels_beside_the_scans_become_a_task_with_the_names_that_were_found(archive, tmp_path):
    init.run(archive, None, "livers", tmp_path / "configs")
    study, task = tmp_path / "configs/studies/livers.yaml", tmp_path / "configs/tasks/livers.yaml"
    value = yaml.safe_load(task.read_text())
    assert "labels" not in value
    assert value["segments"] == {1: ["Liver, [whole]"], 2: ["Couch"], 3: ["liver"], 0: []}
    assert value["may_be_absent"] == [1, 2, 3]
    assert value["kind"]["segmentation"]["classes"] == {1: "structure_1", 2: "structure_2", 3: "structure_3"}
    assert "4 images of 4 subjects in 48 files (4 dicom)" in study.read_text()
    assert "3 subjects have labels" in study.read_text()
    assert "Couch" not in study.read_text()


def test_the_task_once_mended_finds_every_label(archive, tmp_path):
    init.run(archive, None, "livers", tmp_path / "configs")
    task = tmp_path / "configs/tasks/livers.yaml"
    value = yaml.safe_load(task.read_text())
    value |= {"segments": {"liver": ["liver*"], 0: ["couch"]}, "may_be_absent": [], "kind": {"segmentation": {"classes": {1: "liver"}}}}
    task.write_text(yaml.safe_dump(value))
    plan = make_plan(tmp_path / "configs/studies/livers.yaml", results=str(tmp_path / "results"))
    where = StudyFolder(tmp_path / "results" / "livers")
    write_json(where.plan, plan_json(plan))
    index.run(where.root)
    labelled = [line.split("\t")[10] for shard in plan.shards for line in where.shard(shard).read_text().splitlines()[1:]]
    assert sorted(map(tuple, map(json.loads, labelled))) == [(), ("livers",), ("livers",), ("livers",)]


def test_a_folder_of_dicom_labels_is_named_in_the_task(archive, tmp_path):
    labels = tmp_path / "drawn"
    labels.mkdir()
    for number in range(3):
        path = next((archive / str(number)).rglob("x.dcm"))
        path.rename(labels / f"{number}.dcm")
    init.run(archive, labels, "livers", tmp_path / "configs")
    value = yaml.safe_load((tmp_path / "configs/tasks/livers.yaml").read_text())
    assert value["labels"] == str(labels)
    assert len(value["segments"]) == 4


def test_labels_of_other_scans_leave_a_study_that_only_pretrains(archive, tmp_path):
    for number in range(3):
        for path in (archive / str(number)).rglob("s0*"):
            path.unlink()
    for number in range(5, 8):
        slices = image(series=f"p{number}")
        for ds in slices:
            ds.PatientID = f"PERSON{number}"
        save(slices, archive / str(number))
    init.run(archive, None, "others", tmp_path / "configs")
    assert not (tmp_path / "configs/tasks").exists()
