"""Labels with a file for each structure, from the folder to the store: right voxel for voxel, or refused with the files at fault."""

import json
from pathlib import Path, PurePosixPath

import nibabel
import numpy as np
import pandas as pd
import pytest
import tiny_study
from faults.text_files import mha, nrrd
from masks_study import AFFINE, CLASSES, SHAPE, STUDY, TASK, box, person, picture, planned, prepared, save
from tiny_study import table

from pipeline.configuration import read_config
from pipeline.labels.masks import Masks, masks_of, value_of
from pipeline.labels.rule import rule_of
from pipeline.labels.sources import content_of_job
from pipeline.scans.identity import read_crosswalk
from pipeline.scans.reading import read_scan
from pipeline.task import Task
from pipeline.verbs import forget, index, preprocess, split
from pipeline.volumes.jobs import LabelSource
from pipeline.volumes.store import Store


def canonical(values):
    """As stored: ``AFFINE`` turns the first two axes round."""
    return values[::-1, ::-1]


def stored(where):
    """The labels of the only scan."""
    (scan,) = store = Store(where.store)
    return store.labels(scan, "organs") if "organs" in store.tasks(scan) else None


def names_of(where, **columns):
    """Names of files whose rows in inventory.tsv are such."""
    rows = table(where.inventory)
    for key, value in columns.items():
        rows = rows[rows[key] == value]
    paths = read_crosswalk(where).set_index("file_id")["path"]
    return sorted(paths[file].rpartition("/")[2].partition(".")[0] for file in rows["file_id"])


def refused_files(where):
    """Name of each label file that `preprocess` refused -> its code."""
    paths = read_crosswalk(where).drop_duplicates("file_id").set_index("file_id")["path"]
    return {paths[row.file_id].rpartition("/")[2].partition(".")[0]: row.code for row in table(where.shard_refused("00")).itertuples()}


def test_masks_beneath_the_scans_become_one_label_volume_and_no_scans(root):
    person(root, 1)
    where = prepared(root)
    expected = sum(value * box(name).astype(int) for value, name in CLASSES.items())
    assert np.array_equal(stored(where), canonical(expected))
    assert names_of(where, status="volume") == ["ct"]
    assert names_of(where, status="companion") == ["aorta", "liver", "spleen"]
    rows = read_crosswalk(where)
    assert rows["kind"].value_counts().to_dict() == {"labels": 3, "scan": 1}
    assert rows["scan_id"].nunique() == rows["subject_id"].nunique() == 1


@pytest.mark.parametrize(
    ("image", "folder"),
    [
        ("case{}/ct.nii.gz", "case{}/masks"),
        ("a/case{}/ct.nii.gz", "a/case{}/labels"),
        ("images/case{}.nii.gz", "masks/case{}"),
        ("imagesTr/case{}_0000.nii.gz", "labelsTr/case{}"),
        ("sub-{0}/anat/sub-{0}_T1w.nii.gz", "sub-{0}/masks"),
        ("ct/case{}/volume.nii.gz", "ct/masks/case{}"),
    ],
)
def test_a_folder_of_masks_finds_its_image_among_others(root, image, folder):
    expected = {}
    for number in (1, 2, 3):
        path = save(root / "ts" / image.format(number), picture(number))
        masks = {value: np.roll(box(name), number, axis=2) for value, name in CLASSES.items()}
        for value, values in masks.items():
            save(root / "ts" / folder.format(number) / f"{CLASSES[value]}.nii.gz", values)
        expected[str(path)] = sum(value * values.astype(int) for value, values in masks.items())
    where = prepared(root)
    scans = read_crosswalk(where)
    scans = scans[scans["kind"] == "scan"].set_index("path")["scan_id"]
    assert set(scans.index) == set(expected)
    for path, scan in scans.items():
        assert np.array_equal(Store(where.store).labels(scan, "organs"), canonical(expected[path]))


def test_masks_may_be_nrrd_or_metaimage_and_of_real_numbers_or_255(root):
    folder = person(root, 1, ["spleen"])
    for name, suffix, write, kind, inside in (("liver", ".nrrd", nrrd, "u1", 255), ("aorta", ".mha", mha, "f4", 1)):
        values = canonical(box(name, inside)).astype(f"<{kind}")
        affine = AFFINE @ np.diag([-1, -1, 1, 1])
        affine[:3, 3] = AFFINE[:3, :3] @ [SHAPE[0] - 1, SHAPE[1] - 1, 0]
        (folder / f"segmentations/{name}{suffix}").write_bytes(write(affine, SHAPE, kind, values=values))
    expected = sum(value * box(name).astype(int) for value, name in CLASSES.items())
    assert np.array_equal(stored(prepared(root)), canonical(expected))


def test_masks_of_a_dicom_series_lie_on_its_grid(root):
    tiny_study.person(root, 1)
    grid = read_scan("dicom", sorted((root / "scans/1").iterdir())).grid
    for value, name in CLASSES.items():
        values = np.zeros(grid.shape, np.uint8)
        values[4 * value : 4 * value + 3, 5:9, 3:6] = 1
        save(root / "scans/1/masks" / f"{name}.nii.gz", values, grid.affine)
    where = prepared(root, {**TASK, "labels": "{data}/scans"}, {**STUDY, "sources": [{"path": "{data}/scans"}]})
    assert np.unique(stored(where), return_counts=True)[1][1:].tolist() == [36, 36, 36]


def test_names_without_the_case_several_files_of_one_class_and_files_that_are_left_out(root):
    folder = person(root, 1, [])
    for name in ("liver", "spleen", "aorta"):
        save(folder / "masks" / f"s01_OAR_{name}.nii.gz", box(name))
    save(folder / "masks/everything_labels.nii.gz", np.full(SHAPE, 7, np.uint8))
    classes = {"kind": {"segmentation": {"classes": {1: "belly", 4: "vessel"}}}}
    where = prepared(root, {**TASK, **classes, "masks": {"belly": ["OAR_Liver", "*_spleen"], 4: ["s01_OAR_aorta"]}})
    expected = box("liver").astype(int) + box("spleen") + 4 * box("aorta")
    assert np.array_equal(stored(where), canonical(expected))
    assert names_of(where, status="companion") == ["everything_labels", "s01_OAR_aorta", "s01_OAR_liver", "s01_OAR_spleen"]
    assert table(where.inventory)["scan_id"].nunique() == 1, "a file that no class names is a companion of the scan too"
    rows = read_crosswalk(where)
    assert rows[rows["kind"] == "other"]["path"].str.endswith("everything_labels.nii.gz").sum() == 1


OTHER_GRID = AFFINE + np.array([[0, 0, 0, 1.5]] + [[0] * 4] * 3)


@pytest.mark.parametrize(
    ("spoil", "code", "told"),
    [
        (lambda path: save(path, box("liver", 2)), "LABELS_NOT_BINARY", "liver: holds values from 2 to 2 besides 0"),
        (lambda path: save(path, box("liver") + box("spleen", 2)), "LABELS_NOT_BINARY", "liver: holds values from 1 to 2 besides 0"),
        (lambda path: save(path, box("liver", 0.5, np.float32)), "LABELS_NOT_BINARY", "liver: holds values from 0.5 to 0.5"),
        (lambda path: save(path, -box("liver", 1, np.int8)), "LABELS_NOT_BINARY", "liver: holds values from -1 to -1"),
        (
            lambda path: save(path, box("liver"), OTHER_GRID),
            "LABELS_OFF_GRID",
            "liver: lies on another grid than their image: (24, 22, 18)",
        ),
        (lambda path: save(path, box("liver")[1:]), "LABELS_OFF_GRID", "liver: lies on another grid than their image: (23, 22, 18)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "TRUNCATED", "liver: The file ends before its voxels do."),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "TRUNCATED", "liver: The file ends"),
    ],
)
def test_a_mask_that_is_wrong_costs_the_image_its_labels_and_is_named(root, spoil, code, told, capsys):
    spoil(person(root, 1) / "segmentations/liver.nii.gz")
    where = prepared(root)
    assert stored(where) is None
    assert len(Store(where.store).names()) == 1
    assert refused_files(where) == {"liver": code}
    assert f"are refused: {code}: {told}" in capsys.readouterr().out
    person(root, 1)
    index.run(where.root)
    preprocess.run(where.root, "00")
    assert stored(where).max() == 3, "mending the file is enough"
    assert refused_files(where) == {}


def overlapped(root):
    """Liver and spleen share 3 x 14 x 12 voxels."""
    values = box("liver")
    values[9:12, 4:18, 3:15] = 1
    return save(person(root, 1) / "segmentations/liver.nii.gz", values)


def test_masks_that_overlap_are_refused_with_both_files_and_the_number_of_voxels(root, capsys):
    overlapped(root)
    where = prepared(root)
    assert stored(where) is None
    assert refused_files(where) == {"liver": "LABELS_OVERLAP", "spleen": "LABELS_OVERLAP"}
    printed = capsys.readouterr().out
    assert "LABELS_OVERLAP: liver and spleen share 504 voxels. Say under `on_top`" in printed
    assert "overlapping: last" in printed


@pytest.mark.parametrize(
    ("settings", "wins"), [({"overlapping": "last"}, 3), ({"on_top": ["liver"]}, 2), ({"on_top": ["liver"], "overlapping": "last"}, 2)]
)
def test_who_has_shared_voxels_is_said_by_the_task_and_no_other_voxel_changes(root, settings, wins):
    path = overlapped(root)
    where = prepared(root, {**TASK, **settings})
    both = (nibabel.load(path).get_fdata() > 0) & (box("spleen") > 0)
    expected = np.where(both, wins, box("aorta") + 2 * nibabel.load(path).get_fdata() + 3 * box("spleen"))
    assert np.array_equal(stored(where), canonical(expected))


def test_files_of_one_class_may_overlap(root):
    path = overlapped(root)
    classes = {"kind": {"segmentation": {"classes": {1: "aorta", 2: "belly"}}}}
    labels = stored(prepared(root, {**TASK, **classes, "masks": {"aorta": ["aorta"], "belly": ["liver", "spleen"]}}))
    assert np.array_equal(labels == 2, canonical((nibabel.load(path).get_fdata() > 0) | (box("spleen") > 0)))


def test_a_changed_rule_of_overlaps_reads_the_masks_again(root):
    overlapped(root)
    assert stored(prepared(root)) is None
    last = stored(prepared(root, {**TASK, "overlapping": "last"}))
    top = stored(prepared(root, {**TASK, "on_top": [2], "overlapping": "last"}))
    assert (last == 3).sum() - (top == 3).sum() == (top == 2).sum() - (last == 2).sum() == 504


def test_an_empty_mask_says_that_there_is_none(root):
    save(person(root, 1) / "segmentations/spleen.nii.gz", box("spleen", 0))
    where = prepared(root)
    assert np.array_equal(np.unique(stored(where)), [0, 1, 2])


def test_a_missing_mask_costs_the_image_its_labels_unless_the_task_says_what_it_means(root, capsys):
    person(root, 1)
    person(root, 2, ["liver", "aorta"])
    where = planned(root)
    index.run(where.root)
    told = "task organs: 1 scans have all their masks; 1 have some and are used without labels; missing are: spleen 1"
    assert told in capsys.readouterr().out
    rows = table(where.quarantine)
    assert rows["code"].to_list() == ["LABELS_ABSENT"] * 2
    assert names_of(where, code="LABELS_ABSENT") == ["aorta", "liver"]
    preprocess.run(where.root, "00")
    store = Store(where.store)
    assert sorted(len(store.tasks(scan)) for scan in store) == [0, 1]
    where = prepared(root, {**TASK, "may_be_absent": ["spleen"]})
    store = Store(where.store)
    assert sorted(store.meta(scan)["label_values"]["organs"] for scan in store) == [[0, 1, 2], [0, 1, 2, 3]]
    assert table(where.quarantine).empty


def test_one_structure_in_two_files_of_one_name_is_ambiguous(root):
    person(root, 1)
    save(person(root, 2) / "masks/liver.nii.gz", box("liver"))
    where = planned(root)
    index.run(where.root)
    assert table(where.quarantine)["code"].to_list() == ["LABELS_AMBIGUOUS"] * 2
    assert names_of(where, code="LABELS_AMBIGUOUS") == ["liver", "liver"]


def test_masks_beside_two_images_belong_to_neither_unless_those_are_channels(root):
    person(root, 1)
    folder = person(root, 2)
    (folder / "ct.nii.gz").rename(folder / "CT.nii.gz")
    save(folder / "PT.nii.gz", picture(5))
    where = planned(root)
    index.run(where.root)
    assert set(table(where.quarantine)["code"]) == {"LABELS_AMBIGUOUS"}
    for path in (root / "ts/s01").rglob("*.nii.gz"):
        path.unlink()
    where = prepared(root, TASK, {**STUDY, "channels": ["CT", "PT"]})
    assert stored(where).max() == 3


def test_a_file_that_two_classes_name_is_refused(root):
    person(root, 1)
    where = planned(root, {**TASK, "masks": {"aorta": ["aorta"], "liver": ["l*"], "spleen": ["*r", "spleen"]}})
    with pytest.raises(ValueError, match=r"tasks\.organs\.masks: no file .* is called like liver"):
        index.run(where.root)
    assert table(where.quarantine)["code"].value_counts().to_dict() == {"LABELS_ABSENT": 2, "LABELS_SEGMENTS": 1}


def test_mistakes_of_the_study_are_told_with_the_key(root):
    person(root, 1)
    with pytest.raises(ValueError, match=r"masks: need `labels`"):
        planned(root, {key: value for key, value in TASK.items() if key != "labels"})
    with pytest.raises(ValueError, match="masks: 'kidney' is no class under `kind`; there are 1: aorta"):
        planned(root, {**TASK, "masks": {"kidney": ["kidney"]}})
    with pytest.raises(ValueError, match=r"tasks\.organs\.masks: no file below its `labels` is called like livr, and"):
        index.run(planned(root, {**TASK, "may_be_absent": [4], "kind": {"segmentation": {"classes": CLASSES | {4: "livr"}}}}).root)
    (root / "ts/s01/ct.nii.gz").rename(root / "ts/ct.nii.gz")
    with pytest.raises(ValueError, match=r"tasks\.organs\.labels: none of its masks lies in a folder that belongs to one image"):
        index.run(planned(root).root)
    person(root, 1, ["liver"])
    (root / "ts/s01/segmentations/spleen.nii.gz").unlink()
    person(root, 2, ["spleen"])
    with pytest.raises(ValueError, match=r"tasks\.organs\.masks: no scan has all masks that it asks for; .*`may_be_absent`"):
        index.run(planned(root).root)


def test_a_changed_a_new_and_a_lost_mask_wake_the_shard_and_nothing_else_does(root):
    folder, _ = person(root, 1), person(root, 2)
    extra = save(folder / "segmentations/skin.nii.gz", box("aorta"))
    where = prepared(root, {**TASK, "may_be_absent": ["spleen"]})
    before = where.shard("00").read_bytes()

    def indexed():
        index.run(where.root)
        return where.shard("00").read_bytes()

    assert indexed() == before
    save(extra, box("liver"))
    assert indexed() == before, "a file that no class names is no part of it"
    save(folder / "segmentations/liver.nii.gz", np.roll(box("liver"), 1, axis=1))
    assert (changed := indexed()) != before
    preprocess.run(where.root, "00")
    scans = read_crosswalk(where).set_index("path")["scan_id"]
    assert np.array_equal(
        Store(where.store).labels(scans[f"{folder}/ct.nii.gz"], "organs") == 2, canonical(np.roll(box("liver"), 1, axis=1))
    )
    (folder / "segmentations/spleen.nii.gz").unlink()
    assert indexed() not in (before, changed)
    preprocess.run(where.root, "00")
    assert Store(where.store).labels(scans[f"{folder}/ct.nii.gz"], "organs").max() == 2


def test_a_mask_that_changes_after_the_index_is_noticed(root):
    folder = person(root, 1)
    where = planned(root)
    index.run(where.root)
    save(folder / "segmentations/liver.nii.gz", np.roll(box("liver"), 1, axis=1))
    preprocess.run(where.root, "00")
    assert table(where.shard_refused("00"))["code"].to_list() == ["CHANGED"]
    assert not Store(where.store).names()


@pytest.mark.parametrize("task", [TASK, {"labels": "{data}/masks", "kind": {"segmentation": {"classes": {1: "aorta"}}}}])
def test_voxels_beside_their_header_are_part_of_the_labels(root, task):
    person(root, 1, ["liver", "spleen"] if "masks" in task else [])
    header = root / ("ts/s01/segmentations/aorta.mhd" if "masks" in task else "masks/s01/ct.mhd")
    header.parent.mkdir(parents=True, exist_ok=True)
    affine = AFFINE @ np.diag([-1, -1, 1, 1])
    affine[:3, 3] = AFFINE[:3, :3] @ [SHAPE[0] - 1, SHAPE[1] - 1, 0]
    voxels = header.with_suffix(".raw")
    shards, digests = set(), set()
    for moved in (0, 1):
        values = canonical(np.roll(box("aorta"), moved, axis=1))
        told, content = mha(affine, SHAPE, "u1", values=values, file=voxels.name, split=True)
        if not moved:
            header.write_bytes(told)
        voxels.write_bytes(content)
        where = prepared(root, task)
        assert np.array_equal(stored(where) == 1, values > 0)
        shards.add(where.shard("00").read_text())
        digests.add(content_of_job([], {"organs": LabelSource("metaimage", (str(header),))}))
        assert set(table(where.inventory)["status"]) == {"volume", "companion"}
    assert len(shards) == len(digests) == 2
    forget.run(where.root, "s01")
    assert read_crosswalk(where).empty
    with pytest.raises(ValueError, match="none of"):
        index.run(where.root)
    assert set(table(where.inventory)["status"]) == {"forgotten"}


@pytest.mark.parametrize("form", ["", "sform", "qform"])
def test_the_form_that_places_masks_is_that_of_the_task(root, form):
    path = person(root, 1) / "segmentations/liver.nii.gz"
    twice = nibabel.Nifti1Image(box("liver"), AFFINE)
    twice.set_sform(AFFINE, 1)
    twice.set_qform(AFFINE @ np.diag([-1, 1, 1, 1]), 1)
    nibabel.save(twice, path)
    where = prepared(root, {**TASK, "placement": form} if form else TASK)
    code = {"": "ORIENTATION_CONFLICT", "qform": "LABELS_OFF_GRID"}.get(form)
    assert refused_files(where) == ({"liver": code} if code else {})
    assert (stored(where) is None) == bool(code)


def test_names_of_files_stand_in_the_private_folder_alone(root, capsys):
    folder = person(root, 1, ["aorta", "spleen"])
    save(folder / "segmentations/SecretJane_liver.nii.gz", box("liver", 2))
    where = prepared(root, {**TASK, "masks": {1: ["aorta"], 2: ["*_liver"], 3: ["spleen"]}})
    assert list(refused_files(where)) == ["SecretJane_liver"]
    public = b"".join(path.read_bytes() for path in where.root.rglob("*") if path.is_file())
    assert b"SecretJane" not in public
    assert "SecretJane" not in "".join(capsys.readouterr())


def test_two_tasks_share_the_masks_of_one_folder(root):
    person(root, 1)
    save(root / "ts/s01/segmentations/spleen.nii.gz", box("spleen", 9))
    vessels = {**TASK, "kind": {"segmentation": {"classes": {1: "aorta"}}}}
    where = prepared(root, TASK, {**STUDY, "tasks": ["organs.yaml", "vessels.yaml"]}, {"vessels": vessels})
    (scan,) = store = Store(where.store)
    assert store.meta(scan)["label_values"] == {"vessels": [0, 1]}
    assert np.array_equal(store.labels(scan, "vessels"), canonical(box("aorta")))
    assert refused_files(where) == {"spleen": "LABELS_NOT_BINARY"}


def test_a_task_that_lacks_a_mask_takes_none_from_another(root):
    person(root, 1, ["aorta", "liver"])
    person(root, 2)
    vessels = {**TASK, "kind": {"segmentation": {"classes": {1: "aorta"}}}}
    where = planned(root, TASK, {**STUDY, "tasks": ["organs.yaml", "vessels.yaml"]}, {"vessels": vessels})
    index.run(where.root)
    assert sorted(table(where.shard("00"))["labels"]) == ['["organs", "vessels"]', '["vessels"]']
    assert names_of(where, status="quarantined") == ["liver"]
    assert table(where.quarantine)["code"].to_list() == ["LABELS_ABSENT"] * 2, "the aorta is lost to one task, and told"


def test_forgetting_a_subject_takes_every_mask_out(root):
    person(root, 1, ["liver"])
    for number in (2, 3):
        save(person(root, number) / "segmentations/skin.nii.gz", box("aorta"))
    where = prepared(root)
    forget.run(where.root, "s02")
    forget.run(where.root, "s01")
    assert {path.split("/")[-3] for path in read_crosswalk(where)["path"] if "segmentations" in path} == {"s03"}
    assert names_of(where) == ["aorta", "ct", "liver", "skin", "spleen"]
    assert len(Store(where.store).names()) == 1
    index.run(where.root)
    counts = table(where.inventory)["status"].value_counts().to_dict()
    assert counts == {"forgotten": 7, "companion": 4, "volume": 1}
    assert table(where.quarantine).empty
    assert not read_crosswalk(where)["path"].str.contains("s01|s02").any()


def test_the_split_counts_people_with_labels_and_keeps_copies_together(root):
    for number in range(1, 6):
        person(root, number)
    save(root / "ts/s06/ct.nii.gz", picture(1))
    where = prepared(root)
    split.run(where.root)
    manifest = pd.read_parquet(where.manifest)
    labels = [json.loads(text) for text in manifest["labels"]]
    assert sorted(map(len, labels)) == [0, 1, 1, 1, 1, 1]
    assert manifest["split"].value_counts().to_dict()["test"] in (1, 2)
    twins = manifest[manifest["twin_of"] != ""]
    assert len(twins) == 1, "the copy without labels repeats the one with labels"
    assert twins["labels"].to_list() == ["{}"]


def test_the_example_of_the_page_is_the_one_that_can_be_run():
    whole = Path(__file__).parents[2]
    text = (whole / "configs/tasks/organ_masks.yaml").read_text()
    assert text[text.index("masks:\n") :] in (whole / "docs/labels.md").read_text()
    rule = read_config(whole / "configs/tasks/organ_masks.yaml", Task).mask_rule()
    names = {
        "s1/masks/Liver.nii.gz": 1,
        "s1/kidney_left.nrrd": 2,
        "s1/s1_kidney_right.mha": 2,
        "s1/liver_lesion.nii": 3,
        "s1/spleen.nii": None,
    }
    assert {name: value_of(PurePosixPath(name), rule) for name in names} == names


def test_young_settings_leave_what_there_was_before_as_it_was(root):
    rule = rule_of({1: "liver"}, None)
    assert "overlapping" not in rule.settings()
    assert rule_of({1: "liver"}, None, overlapping="last").settings()["overlapping"] == "last"
    person(root, 1)
    plain = {key: value for key, value in TASK.items() if key != "masks"}
    planned(root, plain)
    assert not {"masks", "overlapping"} & read_config(root / "organs.yaml", Task).settings().keys()


def test_names_of_classes_are_no_part_of_what_a_label_volume_depends_on():
    one, two = (masks_of(["x/liver.nii.gz"], ["nifti"], rule_of({1: "liver"}, None), {1: name}) for name in ("liver", "hepar"))
    assert one.settings() == two.settings()
    assert isinstance(one, Masks)
