"""From scans to the manifest by the verbs themselves: two sequences enter as channels, a subject can be forgotten, damage is found."""

import json
import os

import nibabel
import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from scipy import ndimage

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.manifest import read_manifest
from pipeline.plan import make_plan, plan_json
from pipeline.verbs import forget, index, preprocess, split, verify
from pipeline.volumes import jobs
from pipeline.volumes.store import Store

PEOPLE = [f"Mallory{number}" for number in range(6)]
SHAPE = (24, 22, 18)


def save(path, voxels, spacing_mm=(1.0, 1.0, 2.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing_mm, 1.0])), path)


def write_person(data, number):
    rng = np.random.default_rng(number)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    blob = np.exp(-3 * ((x - rng.uniform(-0.3, 0.3)) ** 2 + y**2 + (z - rng.uniform(-0.3, 0.3)) ** 2))
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5)  # each person's own, or all were twins
    for sequence, scale in (("T1", 900), ("FLAIR", 400)):
        picture = scale * (blob + 0.2 * texture / texture.std())
        save(data / "images" / f"Mallory{number}_{sequence}.nii.gz", (picture + rng.normal(50, 10, SHAPE)).astype(np.int16))
    save(data / "labels" / f"Mallory{number}.nii.gz", (blob > 0.5).astype(np.uint8))


@pytest.fixture
def study(tmp_path, monkeypatch):
    """(folder, data) of six people with T1 and FLAIR, indexed, stored and split."""
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    data = tmp_path / "data"
    for number in range(len(PEOPLE)):
        write_person(data, number)
    task = {"name": "blob", "labels": "{data}/labels", "kind": {"segmentation": {"classes": {1: "blob"}}}}
    value = {
        "data": str(data), "sources": [{"path": "{data}/images", "modality": "MR"}], "channels": ["T1", "FLAIR"], "shards": 4,
        "preprocess": {"crop_body": False}, "split": {"test": 2, "validation": 1}, "tasks": ["blob.yaml"], "finetune": {"num_labels": [1]},
    }  # fmt: skip
    for name, content in (("blob", task), ("tiny", value)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    where = StudyFolder(tmp_path / "results")
    write_json(where.plan, plan_json(make_plan(tmp_path / "tiny.yaml")))
    prepare(where)
    return where, data


def prepare(where):
    index.run(where.root)
    for shard in json.loads(where.plan.read_text())["shards"]:
        preprocess.run(where.root, shard)
    split.run(where.root)


def shards(where):
    return {path.name: path.read_bytes() for path in where.root.glob("shards/*.tsv") if "refused" not in path.name}


def test_two_sequences_of_an_exam_are_channels_of_one_volume(study):
    where, _ = study
    rows = read_manifest(where.manifest)
    store = Store(where.store)
    assert len(rows) == len(PEOPLE)
    assert rows["split"].value_counts().to_dict() == {"train": 3, "test": 2, "validation": 1}
    for row in rows.to_dict("records"):
        voxels = store.read(row["scan_id"])
        assert voxels.shape == (2, *SHAPE)
        assert np.corrcoef(voxels[0].ravel(), voxels[1].ravel())[0, 1] > 0.8, "both show the same person"
        assert len(row["window_low"]) == 2
        assert json.loads(row["channels"]) == ["T1", "FLAIR"]
        assert store.labels(row["scan_id"], "blob").shape == SHAPE


def missing(path, monkeypatch):
    path.unlink()


def no_numbers(path, monkeypatch):
    save(path, np.full(SHAPE, np.nan, np.float32))


def far_away(path, monkeypatch):
    image = nibabel.load(path)
    place = image.affine.copy()
    place[0, 3] += 1000.0
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), place), path)


def touched(path, monkeypatch):
    """Before `index`, so that it is read again, and between `index` and `preprocess`."""
    os.utime(path, (2, 2))
    monkeypatch.setattr(index, "run", lambda root, run=index.run: (run(root), os.utime(path, (1, 1))))


@pytest.mark.parametrize(
    ("spoil", "code", "reason", "num_scans"),
    [
        (missing, "MISSING_CHANNEL", "The exam has no scan of the channel FLAIR.", 1),
        (no_numbers, "NOT_FINITE", "Channel FLAIR of its exam: Some voxels are no numbers, or too large.", 2),
        (far_away, "LOW_INFORMATION", "Channel FLAIR of its exam: has only 1 different values", 2),
        (touched, "CHANGED", "Channel FLAIR of its exam: The file changed", 2),
    ],
)
def test_an_exam_that_is_refused_is_told_of_every_scan_of_it_until_it_is_mended(study, monkeypatch, spoil, code, reason, num_scans):
    where, data = study
    path = data / "images" / "Mallory2_FLAIR.nii.gz"
    whole = path.read_bytes()

    def account():
        """(manifest, rows of the inventory by status, quarantine)."""
        files, refused = (pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False) for table in (where.inventory, where.quarantine))
        return read_manifest(where.manifest), dict(iter(files.groupby("status"))), refused

    with monkeypatch.context() as patch:
        spoil(path, patch)
        prepare(where)
    rows, files, refused = account()
    assert len(rows) == len(PEOPLE) - 1
    assert set(files["quarantined"]["scan_id"]) == set(refused["scan_id"])
    assert files["quarantined"]["code"].to_list() == refused["code"].to_list() == [code] * num_scans
    assert len(files["volume"]) == 2 * (len(PEOPLE) - 1)
    assert refused["reason"].str.startswith(reason).all()
    assert set(refused["stage"]) == {"preprocess"}
    assert refused["remedy"].str.len().min() > 10
    path.write_bytes(whole)
    prepare(where)
    rows, files, refused = account()
    assert (len(rows), len(files["volume"]), "quarantined" in files, len(refused)) == (len(PEOPLE), 2 * len(PEOPLE), False, 0)


def test_a_store_of_another_format_is_made_anew_and_one_of_this_format_is_kept(study, monkeypatch, capsys):
    where, _ = study
    shard = max(shards(where).items(), key=lambda item: len(item[1]))[0].removesuffix(".tsv")
    stored = len(pd.read_parquet(where.shard_manifest(shard)))
    assert stored > 0

    def told():
        capsys.readouterr()
        preprocess.run(where.root, shard)
        return capsys.readouterr().out

    assert f"{stored} stored ({stored} of them before)" in told()
    monkeypatch.setattr(jobs, "FORMAT", jobs.FORMAT + 1)
    assert f"{stored} stored (0 of them before)" in told()
    assert f"{stored} stored ({stored} of them before)" in told()


def test_a_new_person_touches_one_shard(study):
    where, data = study
    before = shards(where)
    write_person(data, 77)
    index.run(where.root)
    after = shards(where)
    assert sum(before[name] != after[name] for name in before) == 1


def test_a_forgotten_subject_is_nowhere_and_stays_away(study, capsys):
    where, _ = study
    rows = read_manifest(where.manifest)
    crosswalk = pd.concat(pd.read_csv(path, sep="\t", dtype=str) for path in (where.root.parent / "private").rglob("*.tsv"))
    subject = crosswalk.loc[crosswalk["subject"] == "Mallory3", "subject_id"].iloc[0]
    scan = rows.loc[rows["subject_id"] == subject, "scan_id"].iloc[0]
    for name, subjects in (("used-s0", [subject]), ("other-s0", ["someone"])):
        write_json(where.run(name) / "run.json", {"subjects": subjects})
    for name, scans in (("judged", [scan]), ("apart", ["somebody"])):
        where.transfer(name).mkdir(parents=True)
        pd.DataFrame({"scan_id": scans}).to_parquet(where.cases(name))
    capsys.readouterr()
    forget.run(where.root, "Mallory3")
    told = capsys.readouterr().out
    assert "used-s0" in told
    assert "other-s0" not in told
    assert "1 transfers were tuned or tested on it; running the study again makes them anew" in told
    assert str(where.transfer("judged")) in told
    assert str(where.transfer("apart")) not in told
    where.cases("judged").unlink()
    assert scan not in Store(where.store).names()
    prepare(where)
    assert len(read_manifest(where.manifest)) == len(PEOPLE) - 1
    kept = [path for path in where.root.rglob("*") if path.is_file() and path.name != "run.json"]
    assert not [path for path in kept if subject.encode() in path.read_bytes() or scan.encode() in path.read_bytes()]
    with pytest.raises(ValueError, match="Nobody"):
        forget.run(where.root, "Nobody")


def test_no_name_reaches_the_results(study):
    where, _ = study
    assert not [path for path in where.root.rglob("*") if path.is_file() and path.name != "plan.json" and b"Mallory" in path.read_bytes()]


def test_a_flipped_byte_is_found_removed_and_made_again_as_it_was(study, capsys):
    where, _ = study
    verify.run(where.root)
    scan = read_manifest(where.manifest)["scan_id"].iloc[0]
    files = sorted(path for path in where.store.rglob(f"*{scan}*") if path.is_file() and path.suffix != ".json")
    before = {path: path.read_bytes() for path in files}
    damaged = bytearray(before[files[0]])
    damaged[len(damaged) // 2] ^= 1
    files[0].write_bytes(damaged)
    with pytest.raises(typer.Exit):
        verify.run(where.root, remove=True)
    assert scan in capsys.readouterr().out
    prepare(where)
    assert {path: path.read_bytes() for path in files} == before
    verify.run(where.root)
