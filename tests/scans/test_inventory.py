"""The inventory: every file once, with what it is; labels find their images; names stay private."""

import gzip
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.plan import make_plan, plan_json, read_plan
from pipeline.scans.accounts import read_accounts, write_accounts
from pipeline.scans.folders.naming import name_of, shared_subject
from pipeline.scans.identity import Identity, read_crosswalk, study_private
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.labelling import match_labels
from pipeline.scans.quarantine import Code
from pipeline.verbs import forget, index

IDENTITY = Identity(bytes(32))


def write_nifti(path: Path, shape=(8, 9, 10), value: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.full(shape, value, np.int16), np.diag([1.0, 1.5, 2.0, 1.0])), path)
    return path


def stock(folder: Path, *labels: Path, channels=()):
    places = [Place(path, path.name, task="organ") for path in labels]
    return take_stock([*places, Place(folder, "scans", "MR")], IDENTITY, channels)


@pytest.mark.parametrize(
    ("relative", "subject", "channel"),
    [
        ("case_01.nii.gz", "case_01", ""),
        ("imagesTr/case_01_0001.nii.gz", "case_01", "0001"),
        ("p7/visit2/T1.nii.gz", "p7", ""),
        ("sub-04/ses-1/anat/sub-04_ses-1_T1w.nii.gz", "sub-04", "T1w"),
        ("images/a.b.nii", "a.b", ""),
    ],
)
def test_a_path_says_who_and_which_channel(relative, subject, channel):
    named = name_of(relative)
    assert (named.subject, named.channel) == (subject, channel)


def test_visits_of_one_bids_subject_are_exams_of_one_subject(tmp_path):
    for visit in (1, 2):
        write_nifti(tmp_path / f"sub-04/ses-{visit}/anat/sub-04_ses-{visit}_T1w.nii.gz")
        write_nifti(tmp_path / f"sub-04/ses-{visit}/anat/sub-04_ses-{visit}_FLAIR.nii.gz")
    scans = stock(tmp_path).scans
    assert len({scan.subject_id for scan in scans}) == 1
    assert sorted(Counter(scan.exam_id for scan in scans).values()) == [2, 2]
    assert {scan.modality for scan in scans} == {"MR"}


def test_every_file_is_accounted_for_once(tmp_path):
    write_nifti(tmp_path / "a.nii.gz")
    write_nifti(tmp_path / "b.nii")
    write_nifti(tmp_path / "4d.nii.gz", (4, 4, 4, 3))
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b\x08" + bytes(30))
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "away").symlink_to("/etc/hostname")
    nib.save(nib.Nifti1Pair(np.zeros((5, 5, 5), np.int16), np.eye(4)), tmp_path / "pair.hdr")
    found = stock(tmp_path)
    status = {file.relative: (file.status, file.code) for file in found.files}
    assert len(found.files) == len(list(tmp_path.iterdir()))
    assert status["a.nii.gz"] == status["b.nii"] == ("volume", None)
    assert status["pair.hdr"] == status["pair.img"] == ("volume", None)
    assert status["notes.txt"] == ("not_image", None)
    assert status["4d.nii.gz"] == ("quarantined", Code.DIMENSIONS)
    assert status["empty.nii.gz"] == ("quarantined", Code.EMPTY)
    assert status["broken.nii.gz"][0] == "quarantined"
    assert status["away"] == ("quarantined", Code.LINK)


def test_ids_are_keyed_and_do_not_depend_on_where_the_data_lie(tmp_path):
    write_nifti(tmp_path / "one" / "a.nii.gz")
    write_nifti(tmp_path / "two" / "a.nii.gz")
    first, second = stock(tmp_path / "one").scans[0], stock(tmp_path / "two").scans[0]
    assert first.scan_id == second.scan_id
    other = take_stock([Place(tmp_path / "one", "scans", "MR")], Identity(b"another key".ljust(32))).scans[0]
    assert other.scan_id != first.scan_id
    assert set(first.scan_id) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert len(first.scan_id) == 16


def test_labels_go_to_the_image_of_their_name(tmp_path):
    write_nifti(tmp_path / "images/a.nii.gz")
    write_nifti(tmp_path / "images/b_0000.nii.gz")
    for name in ("a", "b", "nobody"):
        write_nifti(tmp_path / f"labels/{name}.nii.gz")
    found = stock(tmp_path / "images", tmp_path / "labels")
    owners = match_labels(found)
    assert len(owners) == 2
    codes = {file.relative: file.code for file in found.files if file.place.task}
    assert codes == {"a.nii.gz": None, "b.nii.gz": None, "nobody.nii.gz": Code.LABELS_WITHOUT_IMAGE}


def test_labels_of_channels_go_to_the_first_channel_and_twice_named_images_get_none(tmp_path):
    for name in ("x_0001", "x_0000", "p1/y", "p2/y"):
        write_nifti(tmp_path / f"images/{name}.nii.gz")
    for name in ("x", "y"):
        write_nifti(tmp_path / f"labels/{name}.nii.gz")
    found = stock(tmp_path / "images", tmp_path / "labels", channels=("0000", "0001"))
    owners = match_labels(found, ("0000", "0001"))
    (owner,) = owners
    assert next(scan for scan in found.scans if scan.scan_id == owner).channel == "0000"
    assert [file.code for file in found.files if file.place.task and file.relative == "y.nii.gz"] == [Code.LABELS_AMBIGUOUS]


def test_a_label_folder_inside_a_source_is_labels_not_scans(tmp_path):
    write_nifti(tmp_path / "data/images/a.nii.gz")
    write_nifti(tmp_path / "data/labels/a.nii.gz")
    found = stock(tmp_path / "data", tmp_path / "data/labels")
    assert Counter(file.status for file in found.files) == {"companion": 1, "volume": 1}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    for number in range(5):
        write_nifti(tmp_path / f"data/images/Mallory{number}.nii.gz", value=number)
        write_nifti(tmp_path / f"data/labels/Mallory{number}.nii.gz")
    (tmp_path / "t.yaml").write_text("labels: '{data}/labels'\nkind: {segmentation: {classes: {1: organ}}}\n")
    (tmp_path / "study.yaml").write_text(
        "sources: [{path: '{data}/images', modality: MR, origin: made, licence: none}]\nsplit: {test: 1, validation: 1}\n"
        "tasks: [t.yaml]\nmax_refused: 0.3\nshards: 2\n"
    )
    return tmp_path


def planned(tmp_path: Path) -> StudyFolder:
    plan = make_plan(tmp_path / "study.yaml", str(tmp_path / "data"), str(tmp_path / "results"))
    where = StudyFolder(Path(plan.results))
    write_json(where.plan, plan_json(plan))
    return where


def test_no_name_leaves_the_private_folder(study):
    where = planned(study)
    index.run(where.root)
    written = b"".join(path.read_bytes() for path in where.root.rglob("*") if path.is_file() and path != where.plan)
    assert b"Mallory" not in written
    assert str(study).encode() not in written
    crosswalk = read_crosswalk(where)
    assert (crosswalk["subject"].str.startswith("Mallory")).sum() == 10
    assert (study_private(where) / "crosswalk.tsv").stat().st_mode & 0o777 == 0o600


def test_indexing_again_writes_nothing_and_a_new_scan_one_shard(study):
    where = planned(study)
    index.run(where.root)
    before = {path: path.stat().st_mtime_ns for path in where.root.rglob("*.tsv")}
    index.run(where.root)
    assert {path: path.stat().st_mtime_ns for path in where.root.rglob("*.tsv")} == before
    write_nifti(study / "data/images/late.nii.gz")
    index.run(where.root)
    changed = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert "inventory.tsv" in changed
    assert len(changed & {"00.tsv", "01.tsv"}) == 1


def test_what_preprocess_refuses_joins_the_accounts_and_leaves_them_again(study):
    where = planned(study)
    index.run(where.root)
    plan, _ = read_plan(where.root)
    shard = next(name for name in plan.shards if len(where.shard(name).read_text().splitlines()) > 1)
    scan_id = where.shard(shard).read_text().splitlines()[1].split("\t")[0]
    header = where.quarantine.read_text()
    where.shard_refused(shard).write_text(header + "\t".join(("", scan_id, "preprocess", "CORRUPT", "r", "m", "made", "none")) + "\n")
    for _ in range(2):
        write_accounts(where, plan.shards, *read_accounts(where))
    assert where.quarantine.read_text().count("\n") == 2
    assert where.inventory.read_text().count("quarantined\tCORRUPT") == 1
    index.run(where.root)
    assert where.quarantine.read_text().count("\n") == 2, "indexing again does not forget what preprocess found"
    where.shard_refused(shard).write_text(header)
    write_accounts(where, plan.shards, *read_accounts(where))
    assert "quarantined" not in where.inventory.read_text()


def test_too_much_refused_stops_the_run_and_says_where_to_look(study):
    for number in range(8):
        (study / f"data/images/bad{number}.nii.gz").write_bytes(gzip.compress(bytes(400)))
    where = planned(study)
    with pytest.raises(ValueError, match=r"max_refused: 44% .*quarantine.tsv"):
        index.run(where.root)
    assert where.quarantine.read_text().count("\n") == 9


def test_an_empty_folder_and_labels_of_nobody_are_told(study):
    for path in (study / "data/labels").iterdir():
        path.rename(path.with_name(f"other-{path.name}"))
    where = planned(study)
    with pytest.raises(ValueError, match=r"tasks.t.labels: none of its 5 files belongs to one image"):
        index.run(where.root)
    for path in (study / "data").rglob("*.gz"):
        path.unlink()
    with pytest.raises(ValueError, match="there is no file in"):
        index.run(where.root)


def test_a_forgotten_subject_does_not_come_back(study):
    where = planned(study)
    index.run(where.root)
    forget.run(where.root, "Mallory3")
    assert "Mallory3" not in read_crosswalk(where)["subject"].to_list()
    index.run(where.root)
    assert "Mallory3" not in read_crosswalk(where)["subject"].to_list()
    inventory = where.inventory.read_text()
    assert inventory.count("forgotten") == 2


@pytest.mark.parametrize(
    ("stems", "found"),
    [
        ([f"p{n}_{phase}" for n in range(4) for phase in ("ED", "ES")], True),
        ([f"case_{n}" for n in range(9)], False),
        ([f"liver_{n:03d}" for n in range(40)], False),
        ([f"p{n}" for n in range(9)], False),
        (["p1_a", "p2_a", "p3_a", "p4_a"], False),
    ],
)
def test_a_pattern_of_subjects_is_seen_only_where_names_repeat(stems, found):
    assert bool(shared_subject(stems)) == found


def test_the_pattern_of_a_source_names_the_subject_and_only_that(tmp_path):
    plain, named = (name_of("site/p7_ED.nii.gz", (), pattern) for pattern in ("", r"(p\d+)_"))
    assert (plain.subject, named.subject) == ("site", "p7")
    assert (plain.key, plain.exam) == (named.key, named.exam)
    assert name_of("site/other.nii.gz", (), r"(p\d+)_").subject == "site"


def test_two_phases_of_one_person_share_the_subject_and_not_the_scan(tmp_path):
    for name in ("p1_ED", "p1_ES", "p2_ED"):
        write_nifti(tmp_path / f"{name}.nii.gz")
    scans = take_stock([Place(tmp_path, "scans", "MR", subject=r"(p\d+)_")], IDENTITY).scans
    assert sorted(Counter(scan.subject_id for scan in scans).values()) == [1, 2]
    assert len({scan.scan_id for scan in scans}) == 3
