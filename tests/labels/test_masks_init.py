"""`init` on masks, a file for each structure: a task with the classes that were found, which runs from there to fine-tuning's reading."""

import numpy as np
import pandas as pd
import pytest
import yaml
from masks_study import AFFINE, BOXES, CLASSES, SHAPE, box, person, picture, save

from pipeline.cohorts import _masks
from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.manifest import read_manifest
from pipeline.plan import make_plan, plan_json
from pipeline.plugins import load, settings
from pipeline.step import Context
from pipeline.transfer.labelled import LabelledVolumes, labelled_scans
from pipeline.verbs import index, init, preprocess, split
from pipeline.volumes.store import Store


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    for number in range(1, 6):
        person(tmp_path, number)
    return tmp_path


def called(root, labels="ts"):
    """(text of the study, text of the task) that `init` writes."""
    init.run(root / "ts", root / labels, "organs", root / "configs")
    return [(root / "configs" / kind / "organs.yaml").read_text() for kind in ("studies", "tasks")]


def test_from_init_to_what_fine_tuning_reads(root):
    study, task = called(root)
    value = yaml.safe_load(task)
    assert value["labels"] == str(root / "ts")
    assert value["masks"] == "by_name"
    assert value["kind"]["segmentation"]["classes"] == CLASSES, "in the order of their names"
    assert "in folders of 5 images, of which 5 have all" in task
    assert "delete their lines" in task
    assert "5 images of 5 subjects in 5 files (5 nifti);\n# 5 subjects have labels" in study
    plan = make_plan(root / "configs/studies/organs.yaml", results=str(root / "results"))
    where = StudyFolder(root / "results" / "organs")
    write_json(where.plan, plan_json(plan))
    index.run(where.root)
    for shard in plan.shards:
        preprocess.run(where.root, shard)
    split.run(where.root)
    scans = labelled_scans(read_manifest(where.manifest), "organs")
    assert {name: len(rows) for name, rows in scans.items()} == {"train": 3, "validation": 1, "test": 1}
    classes = plan.tasks["organs"]["kind"]["segmentation"]
    kind = load("tasks", "segmentation")(settings("tasks", "segmentation", classes), Context(1, 1, 1, SHAPE, 1))
    volumes = LabelledVolumes(Store(where.store), "organs", kind, pd.concat(scans.values()))
    for scan in pd.concat(scans.values())["scan_id"]:
        voxels, labels = volumes.whole(scan)
        assert voxels.shape[1:] == labels.shape == SHAPE
        assert np.array_equal(labels[::-1, ::-1], sum(value * box(name).astype(int) for value, name in CLASSES.items()))


def test_masks_in_a_folder_of_their_own(root):
    for folder in list((root / "ts").iterdir()):
        (root / "masks").mkdir(exist_ok=True)
        (folder / "segmentations").rename(root / "masks" / folder.name)
    _, task = called(root, "masks")
    assert yaml.safe_load(task)["kind"]["segmentation"]["classes"] == CLASSES


def test_without_labels_the_masks_are_left_aside_and_are_no_scans(root, capsys):
    init.run(root / "ts", None, "bare", root / "configs")
    assert "5 images of 5 subjects" in (root / "configs/studies/bare.yaml").read_text()
    assert "15 label volumes by name or folder are left aside; to use them, call again with --labels" in capsys.readouterr().out


def test_files_that_are_no_masks_and_those_that_few_have_are_no_classes(root):
    for number in range(1, 6):
        save(root / f"ts/s{number:02d}/combined_labels.nii.gz", box("liver") + box("spleen", 2))
        save(root / f"ts/s{number:02d}/segmentations/s{number:02d}_kidney.nii.gz", box("aorta", 0))
    for number in (1, 3):
        save(root / f"ts/s{number:02d}/segmentations/cyst.nii.gz", box("aorta", 0))
    save(root / "ts/s02/segmentations/scribble.nii.gz", box("aorta", 0))
    study, task = called(root)
    value = yaml.safe_load(task)
    assert list(value["kind"]["segmentation"]["classes"].values()) == ["aorta", "kidney", "liver", "spleen"]
    assert '# No classes, since fewer than nine in ten images have them: "cyst" (2)' in task
    assert 'their files are no masks of one structure: "combined_labels"' in task
    assert "scribble" not in task
    assert "5 subjects have labels" in study


def test_images_that_lack_a_mask_do_not_count_as_labelled(root):
    for number in range(6, 21):
        person(root, number)
    (root / "ts/s07/segmentations/liver.nii.gz").unlink()
    study, task = called(root)
    assert "# 19 subjects have labels" in study
    assert 'liver"   # 19' in task


def widened(name, by):
    """A mask that reaches into its neighbour."""
    high = BOXES[name][1]
    values = box(name)
    values[high : high + 1, 4 : 4 + by, 3:15] = 1
    return values


SLIVER = np.where(np.arange(SHAPE[2]) == 5, widened("liver", 2), box("liver"))


@pytest.mark.parametrize(
    ("mask", "setting", "told"),
    [
        (box("liver"), "refuse", "of 3 images looked into, 0 have masks that overlap"),
        (SLIVER, "last", '3 have masks that overlap, most "liver" and "spleen" (2 voxels, 0.3%'),
        (widened("liver", 14), "refuse", '"liver" and "spleen" (168 voxels, 25.0% of the smaller): say above which lies on top'),
    ],
)  # fmt: skip
def test_slivers_are_told_from_structures_that_lie_in_others(root, mask, setting, told):
    for folder in (root / "ts").iterdir():
        save(folder / "segmentations/liver.nii.gz", mask)
    _, task = called(root)
    assert yaml.safe_load(task)["overlapping"] == setting
    assert told in task


def test_more_classes_than_labels_hold_are_named_and_left_out(root, monkeypatch):
    monkeypatch.setattr(_masks, "MOST_CLASSES", 2)
    _, task = called(root)
    assert yaml.safe_load(task)["kind"]["segmentation"]["classes"] == {1: "aorta", 2: "liver"}
    assert 'or since a task holds 2: "spleen" (5)' in task


def test_a_label_volume_for_each_image_is_no_mask(root):
    for number in range(1, 6):
        folder = root / f"ts/s{number:02d}"
        for path in (folder / "segmentations").iterdir():
            path.unlink()
        save(folder / "seg.nii.gz", box("liver") + box("spleen", 2))
    _, task = called(root)
    assert "masks" not in yaml.safe_load(task)
    assert yaml.safe_load(task)["kind"]["segmentation"]["classes"] == {1: "label_1", 2: "label_2"}


def test_a_broken_mask_is_named(root):
    path = root / "ts/s01/segmentations/liver.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"liver\.nii\.gz: cannot be read as a mask"):
        called(root)
    assert not list((root / "configs").rglob("*.yaml"))


def test_channels_of_an_exam_share_masks(root):
    for number in range(1, 6):
        folder = root / f"ts/s{number:02d}"
        (folder / "ct.nii.gz").rename(folder / "CT.nii.gz")
        save(folder / "PT.nii.gz", picture(50 + number), AFFINE)
    study, task = called(root)
    assert yaml.safe_load(study)["channels"] == ["CT", "PT"]
    assert yaml.safe_load(task)["kind"]["segmentation"]["classes"] == CLASSES
