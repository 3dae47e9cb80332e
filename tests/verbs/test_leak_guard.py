"""The leak guard: whoever hides a test subject in the pool, under whatever name and shape, does not get it into a pretraining."""

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "volumes" / "disguises"))
from bodies import person
from disguises import DISGUISES

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.manifest import read_manifest, write_manifest
from pipeline.plan import make_plan, plan_json, read_plan
from pipeline.scans.identity import read_crosswalk
from pipeline.training.guard import check_manifest
from pipeline.training.pretraining import pool, pretrain
from pipeline.verbs import index, preprocess, split

PEOPLE = 6
SHAPE = (48, 40, 32)
RECIPE = {
    "network": {"unet": {"widths": [4, 8], "skips": False}},
    "crops": {"random": {"size_vox": [16, 16, 16]}},
    "views": {"altered": {"corrupt": {}}},
    "objectives": {"restoration": {"view": "altered"}},
    "training": {"steps": 2, "batch": 2},
}
PLANTED = (
    "another name", "spacing rewritten to 1 mm", "int16 as float32", "mirrored left to right", "mirrored top to bottom",
    "cropped by 15% along every axis", "slices in another order", "half of its slices", "scaled and shifted values", "windowed to 8 bits",
    "resampled to 1.2 of its spacing", "Rician noise, resampled",
)  # fmt: skip


def save(path, volume):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.voxels[0], volume.grid.affine), path)


def make_study(root, cohorts=("", ""), **changes):
    """(plan, folder) of labelled people in one folder and whatever a test put into another, indexed and stored."""
    sources = [{"path": f"{{data}}/{name}", "modality": "CT"} for name in ("images", "pool") if (root / "data" / name).exists()]
    sources = [source | ({"cohort": cohort} if cohort else {}) for source, cohort in zip(sources, cohorts, strict=False)]
    (root / "restoration.yaml").write_text(yaml.safe_dump(RECIPE))
    continued = RECIPE | {"from": "restoration"}
    (root / "continued.yaml").write_text(yaml.safe_dump(continued))
    task = {"labels": "{data}/labels", "kind": {"segmentation": {"classes": {1: "organ"}}}}
    (root / "organ.yaml").write_text(yaml.safe_dump(task))
    study = {
        "data": str(root / "data"), "sources": sources, "shards": 1, "split": {"test": 3, "validation": 1}, "tasks": ["organ.yaml"],
        "finetune": {"num_labels": [1]},
        "recipes": ["restoration.yaml", "continued.yaml"], **changes,
    }  # fmt: skip
    (root / "tiny.yaml").write_text(yaml.safe_dump(study))
    where = StudyFolder(root / "results")
    write_json(where.plan, plan_json(make_plan(root / "tiny.yaml")))
    index.run(where.root)
    preprocess.run(where.root, "00")
    split.run(where.root)
    return read_plan(where.root)[0], where


def write_people(root):
    for number in range(PEOPLE):
        volume = person(number, SHAPE)
        save(root / "data" / "images" / f"person{number}.nii.gz", volume)
        labels = type(volume)((volume.voxels > 30).astype(np.uint8), volume.grid)
        save(root / "data" / "labels" / f"person{number}.nii.gz", labels)


def subjects(where):
    """File name without endings -> row of the manifest."""
    crosswalk = read_crosswalk(where)
    scans = crosswalk[crosswalk["kind"] == "scan"]
    names = {Path(path).name.partition(".")[0]: scan for path, scan in zip(scans["path"], scans["scan_id"], strict=True)}
    rows = read_manifest(where.manifest).set_index("scan_id", drop=False)
    return {name: rows.loc[scan] for name, scan in names.items()}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A study into whose pool a copy of every person was put under each disguise."""
    root = tmp_path_factory.mktemp("planted")
    patch = pytest.MonkeyPatch()
    patch.setenv("VESALIUS_PRIVATE", str(root / "private"))
    write_people(root)
    for kind, disguise in enumerate(PLANTED):
        for number in range(PEOPLE):
            copy = DISGUISES[disguise](person(number, SHAPE), np.random.default_rng([kind, number]))
            save(root / "data" / "pool" / f"copy{number}x{kind:02d}.nii.gz", copy)
    for number in range(100, 104):
        save(root / "data" / "pool" / f"other{number}.nii.gz", person(number, SHAPE))
    yield make_study(root)
    patch.undo()


def test_every_disguised_copy_of_a_test_subject_stays_with_it(planted):
    plan, where = planted
    rows = subjects(where)
    wrong = [
        (PLANTED[kind], number)
        for kind in range(len(PLANTED))
        for number in range(PEOPLE)
        if rows[f"copy{number}x{kind:02d}"]["cluster_id"] != rows[f"person{number}"]["cluster_id"]
    ]
    assert wrong == []
    held_out = {row["scan_id"] for row in rows.values() if row["split"] != "train"}
    assert len(held_out) == 4 * (1 + len(PLANTED))
    train, _ = pool(read_manifest(where.manifest), plan.study_value())
    assert not held_out & set(train["scan_id"])


def test_people_who_are_nobodys_copy_stay_in_the_pool(planted):
    _, where = planted
    rows = subjects(where)
    assert [rows[f"other{number}"]["split"] for number in range(100, 104)] == ["train"] * 4
    assert len({row["cluster_id"] for row in rows.values()}) == PEOPLE + 4


@pytest.fixture
def edited(planted):
    """Gives a function that rewrites the manifest; the old one comes back afterwards."""
    _, where = planted
    before = read_manifest(where.manifest)
    yield lambda change: write_manifest(change(before.copy()), where.manifest)
    write_manifest(before, where.manifest)


def leaks():
    """Ways in which somebody's manifest may lead a test subject into the pool: (name of the scan, columns that are forged)."""
    copies = [f"copy{{number}}x{kind:02d}" for kind in range(len(PLANTED))]
    forged = [("split",), ("split", "cluster_id"), ("split", "cluster_id", "subject_id", "exam_id", "twin_of")]
    return [(name, columns) for name in copies for columns in forged]


@pytest.mark.parametrize(("name", "columns"), leaks(), ids=str)
def test_pretraining_refuses_a_manifest_that_leads_a_copy_into_the_pool(planted, edited, name, columns):
    plan, where = planted
    rows = subjects(where)
    number = next(n for n in range(PEOPLE) if rows[f"person{n}"]["split"] == "test")
    scan = rows[name.format(number=number)]["scan_id"]

    def forge(frame):
        values = {column: "train" if column == "split" else "" if column == "twin_of" else "forged" for column in columns}
        frame.loc[frame["scan_id"] == scan, list(values)] = list(values.values())
        return frame

    edited(forge)
    with pytest.raises(ValueError, match="split"):
        pretrain(plan, where, plan.runs[0])
    assert not where.run(plan.runs[0].run).exists(), "it refuses before it writes"


def test_without_the_table_of_twins_nothing_is_pretrained(planted):
    _, where = planted
    table = where.root / "twins.tsv"
    text = table.read_text()
    table.unlink()
    try:
        with pytest.raises(ValueError, match=r"twins\.tsv: is missing"):
            check_manifest(read_manifest(where.manifest), where)
    finally:
        table.write_text(text)


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    write_people(tmp_path)
    return tmp_path


def test_a_run_that_builds_on_one_that_saw_test_subjects_is_refused(small):
    plan, where = make_study(small)
    first, second = sorted(plan.runs, key=lambda run: len(run.needs))
    manifest = read_manifest(where.manifest)
    pretrain(plan, where, first)
    card = json.loads((where.run(first.run) / "run.json").read_text())
    test = manifest.loc[manifest["split"] == "test", "cluster_id"].iloc[0]
    write_json(where.run(first.run) / "run.json", card | {"clusters": [*card["clusters"], test]})
    with pytest.raises(ValueError, match="test subjects were pretrained on"):
        pretrain(plan, where, second)
    assert not where.run(second.run).exists()


def test_test_subjects_are_pretrained_on_only_where_the_study_says_so_and_the_encoder_says_it_too(small):
    plan, where = make_study(small, pool={"allow_test_subjects": True})
    pretrain(plan, where, next(run for run in plan.runs if not run.needs))
    folder = where.run(next(run for run in plan.runs if not run.needs).run)
    assert json.loads((folder / "encoder.json").read_text())["provenance"]["saw_test_subjects"] is True
    manifest = read_manifest(where.manifest)
    seen = set(json.loads((folder / "run.json").read_text())["clusters"])
    assert set(manifest.loc[manifest["split"] == "test", "cluster_id"]) <= seen


def test_one_name_in_two_folders_is_asked_about_and_one_cohort_is_one_person(small):
    for number in range(3):
        save(small / "data" / "pool" / f"person{number}" / f"follow-up{number}.nii.gz", person(50 + number, SHAPE))
    with pytest.raises(ValueError, match="3 subjects are called alike"):
        make_study(small)
    _, where = make_study(small, cohorts=("a", "a"))
    rows = read_manifest(where.manifest)
    assert (len(rows), rows["subject_id"].nunique()) == (PEOPLE + 3, PEOPLE)
    assert (rows.groupby("subject_id")["split"].nunique() == 1).all()
    _, where = make_study(small, cohorts=("a", "b"))
    assert read_manifest(where.manifest)["subject_id"].nunique() == PEOPLE + 3


def test_a_person_with_two_visits_is_one_subject(small):
    volume = person(0, SHAPE)
    save(small / "data" / "pool" / "sub-07" / "ses-1" / "sub-07_ses-1_ct.nii.gz", volume)
    save(small / "data" / "pool" / "sub-07" / "ses-2" / "sub-07_ses-2_ct.nii.gz", person(70, SHAPE))
    _, where = make_study(small)
    rows = pd.DataFrame(list(subjects(where).values()), index=list(subjects(where)))
    visits = rows.loc[["sub-07_ses-1_ct", "sub-07_ses-2_ct"]]
    assert visits["cluster_id"].nunique() == 1
    assert rows.loc["person0", "cluster_id"] == visits["cluster_id"].iloc[0], "the first visit has the voxels of a labelled person"
    assert set(visits["split"]) == {rows.loc["person0", "split"]}
