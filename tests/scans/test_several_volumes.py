"""Files that hold several volumes: each is a scan of its own, the file one row of the inventory, and the crosswalk a row for each scan."""

import gzip
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from faults.dicom_mosaic import make_mosaic
from faults.phantom import error
from faults.series import make_enhanced, make_series, save, uid

from pipeline.files import read_json, write_json
from pipeline.folder import StudyFolder
from pipeline.plan import make_plan, plan_json
from pipeline.scans.accounts import read_accounts, write_accounts
from pipeline.scans.identity import Identity, read_crosswalk
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.reading import read_scan
from pipeline.verbs import convert, forget, index, preprocess
from pipeline.volumes.store import Store

IDENTITY = Identity(bytes(32))
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def values(count=3, kind=np.int16, shape=(24, 22, 20)):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    blob = 900 * np.exp(-2 * (x**2 + y**2 + z**2))
    return np.stack([blob + 10 * n + np.random.default_rng(n).normal(0, 9, shape) for n in range(count)], axis=-1).astype(kind)


def save_4d(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save((nib.Nifti1Pair if path.suffix == ".hdr" else nib.Nifti1Image)(voxels, AFFINE), path)
    return path


@pytest.mark.parametrize(("policy", "count"), [("refuse", 0), ("first", 1), ("split", 3)])
def test_the_policy_of_a_source_says_what_becomes_of_a_4d_file(tmp_path, policy, count):
    save_4d(tmp_path / "p1/bold.nii.gz", values())
    save_4d(tmp_path / "p2/plain.nii.gz", values()[..., 0])
    found = take_stock([Place(tmp_path, "scans", "MR", four_d=policy)], IDENTITY)
    file, plain = found.files
    assert (file.status, file.code) == (("volume", None) if count else ("quarantined", Code.DIMENSIONS))
    scans = [scan for scan in found.scans if scan.scan_id in file.scan_ids]
    assert [scan.kind for scan in scans] == [f"nifti:{n}" for n in range(count)]
    assert len({scan.scan_id for scan in scans}) == count
    assert len({scan.exam_id for scan in scans}) <= 1
    assert all(scan.shape == (24, 22, 20) for scan in scans)
    assert next(scan.kind for scan in found.scans if scan.scan_id == plain.scan_id) == "nifti"


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.hdr"])
@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_each_volume_of_a_4d_file_is_read_as_it_is(tmp_path, name, kind):
    voxels = values(kind=kind)
    path = save_4d(tmp_path / name, voxels)
    for number in range(3):
        volume = read_scan(f"nifti:{number}", [path])
        np.testing.assert_array_equal(volume.voxels[0], voxels[..., number])
        np.testing.assert_allclose(volume.grid.affine, AFFINE)
    with pytest.raises(Refused) as refused:
        read_scan("nifti:3", [path])
    assert refused.value.code is Code.CHANGED


@pytest.mark.parametrize("number", [0, 1, 2])
def test_damage_anywhere_in_a_4d_file_refuses_every_volume(tmp_path, number):
    path = save_4d(tmp_path / "a.nii", values())
    whole = path.read_bytes()
    short, flipped = tmp_path / "short.nii.gz", tmp_path / "flipped.nii.gz"
    short.write_bytes(gzip.compress(whole[:-9]))
    packed = bytearray(gzip.compress(whole))
    packed[-6] ^= 4
    flipped.write_bytes(packed)
    behind = tmp_path / "behind.nii"
    behind.write_bytes(whole + b"more")
    for broken in (short, flipped, behind):
        with pytest.raises(Refused):
            read_scan(f"nifti:{number}", [broken])


def test_five_dimensions_stay_refused(tmp_path):
    save_4d(tmp_path / "5d.nii.gz", values()[..., None, :])
    found = take_stock([Place(tmp_path, "scans", "MR", four_d="split")], IDENTITY)
    assert found.files[0].code is Code.DIMENSIONS


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A 4-D file, and an enhanced object of two good stacks and one with a hole."""
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    save_4d(tmp_path / "data/Mallory/bold.nii.gz", values())
    slices = [make_series(8, shape=(40, 30), origin=(-7, 4, 100 * stack)) for stack in range(3)]
    content = [{"StackID": str(stack)} for stack in range(3) for _ in range(8)]
    flat = [item for part in slices for item in part]
    save([make_enhanced(flat[:11] + flat[12:], content=content[:11] + content[12:])], tmp_path / "data/series")
    (tmp_path / "study.yaml").write_text(
        "sources: [{path: '{data}', modality: MR, four_d: split}]\nsplit: {test: 1, validation: 1}\nshards: 1\n"
        "preprocess: {crop_body: false}\n"
    )
    plan = make_plan(tmp_path / "study.yaml", str(tmp_path / "data"), str(tmp_path / "results"))
    where = StudyFolder(tmp_path / "results" / "study")
    write_json(where.plan, plan_json(plan))
    index.run(where.root)
    return where


def table(path):
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def test_a_file_is_one_row_and_the_crosswalk_has_one_for_each_of_its_scans(study):
    files, shard, refused, crosswalk = table(study.inventory), table(study.shard("00")), table(study.quarantine), read_crosswalk(study)
    assert len(files) == 2
    assert (files["status"] == "volume").all()
    assert sorted(shard["kind"]) == ["dicom:0", "dicom:2", "nifti:0", "nifti:1", "nifti:2"]
    assert sorted(scan for ids in files["scan_id"] for scan in ids.split()) == sorted(shard["scan_id"])
    assert sorted(crosswalk["scan_id"]) == sorted(shard["scan_id"])
    assert (crosswalk["kind"] == "scan").all()
    assert refused["code"].to_list() == ["MISSING_SLICE"]
    assert refused["scan_id"].iloc[0] not in set(shard["scan_id"])


def test_every_volume_is_stored_and_a_file_is_refused_only_with_all_of_them(study):
    preprocess.run(study.root, "00")
    store = Store(study.store)
    assert set(store) == set(table(study.shard("00"))["scan_id"])
    before = study.inventory.read_text(), study.quarantine.read_text()
    scans = table(study.shard("00")).set_index("kind")["scan_id"]
    header = "\t".join(table(study.quarantine).columns)
    for gone, status in ((["dicom:0"], "volume"), (["dicom:0", "dicom:2"], "quarantined"), ([], "volume")):
        rows = ["\t".join(("", scans[kind], "preprocess", "CORRUPT", "r", "m", "o", "l")) for kind in gone]
        study.shard_refused("00").write_text("".join(f"{line}\n" for line in [header, *rows]))
        for _ in range(2):
            write_accounts(study, ["00"], *read_accounts(study))
        files = table(study.inventory)
        assert files.loc[files["kind"] == "dicom", "status"].to_list() == [status]
    assert (study.inventory.read_text(), study.quarantine.read_text()) == before


def test_a_forgotten_subject_takes_all_volumes_of_its_files_along(study):
    preprocess.run(study.root, "00")
    forget.run(study.root, "Mallory")
    assert len(Store(study.store).names()) == 2
    assert len(read_crosswalk(study)) == 2
    index.run(study.root)
    assert sorted(table(study.inventory)["status"]) == ["forgotten", "volume"]


def test_convert_splits_4d_files_only_when_it_is_told_to(study, tmp_path):
    convert.run(tmp_path / "data", tmp_path / "plain")
    rows = table(tmp_path / "plain/inventory.tsv")
    assert rows.set_index("path")["code"]["Mallory/bold.nii.gz"] == "DIMENSIONS"
    assert len(list((tmp_path / "plain").glob("*.nii.gz"))) == 2
    convert.run(tmp_path / "data", tmp_path / "plain", four_d="split")
    rows = table(tmp_path / "plain/inventory.tsv").set_index("path")
    ids = rows["scan_id"]["Mallory/bold.nii.gz"].split()
    assert (rows["status"] == "volume").all()
    for number, scan in enumerate(ids):
        np.testing.assert_array_equal(nib.load(tmp_path / f"plain/{scan}.nii.gz").get_fdata(), values()[..., number])
    assert table(tmp_path / "plain/quarantine.tsv")["code"].to_list() == ["MISSING_SLICE"]
    with pytest.raises(ValueError, match="--four-d"):
        convert.run(tmp_path / "data", tmp_path / "plain", four_d="all")


def times(number=3):
    """Classic slices of time points, told apart by acquisition and instance number."""
    found = [make_series(8, modality="MR", offset=50.0 * time) for time in range(number)]
    for time, slices in enumerate(found):
        for place, ds in enumerate(slices):
            ds.InstanceNumber, ds.AcquisitionNumber = time * len(slices) + place + 1, time + 1
    return found


@pytest.mark.parametrize("policy", ["refuse", "split"])
def test_all_volumes_of_a_dicom_series_are_taken_without_a_word(tmp_path, policy):
    save([ds for part in times() for ds in part], tmp_path / "classic")
    save([make_mosaic(time=time, offset=50.0 * time) for time in range(3)], tmp_path / "mosaics")
    found = take_stock([Place(tmp_path, "scans", four_d=policy)], IDENTITY)
    assert len(found.scans) == 6
    assert {file.status for file in found.files} == {"volume"}


@pytest.mark.parametrize("how", ["classic", "mosaics", "enhanced"])
def test_the_first_volume_of_a_dicom_series_in_time_is_taken_where_its_source_says_so(tmp_path, how):
    if how == "classic":
        save([ds for part in times() for ds in part], tmp_path)
    elif how == "mosaics":
        save([make_mosaic(time=time, offset=50.0 * time) for time in (2, 0, 1)], tmp_path)
    else:
        stamps = [f"20260101120{2 - time}00.5" for time in range(3) for _ in range(8)]  # frames stand from late to early
        content = [{"FrameAcquisitionDateTime": stamp, "TemporalPositionIndex": 3 - number // 8} for number, stamp in enumerate(stamps)]
        frames = [ds for time in (2, 1, 0) for ds in make_series(8, offset=50.0 * time)]
        save([make_enhanced(frames, content=content)], tmp_path)
    found = take_stock([Place(tmp_path, "scans", four_d="first")], IDENTITY)
    (scan,) = found.scans
    assert error(read_scan(scan.kind, scan.paths)) <= 0.51
    statuses = [(file.status, file.scan_id) for file in found.files]
    taken, left = {"classic": (8, 16), "mosaics": (1, 2), "enhanced": (1, 0)}[how]
    assert statuses.count(("volume", scan.scan_id)) == taken
    assert statuses.count(("left_out", scan.scan_id)) == left
    assert len(statuses) == taken + left


def test_a_first_volume_that_is_refused_leaves_its_place_to_the_next(tmp_path):
    first, second, third = times()
    save([ds for part in (first[:3] + first[4:], second, third) for ds in part], tmp_path)
    found = take_stock([Place(tmp_path, "scans", four_d="first")], IDENTITY)
    (scan,) = found.scans
    assert error(read_scan(scan.kind, scan.paths), 50.0) <= 0.51
    assert sorted(file.status for file in found.files) == ["left_out"] * 8 + ["quarantined"] * 7 + ["volume"] * 8
    assert {file.code for file in found.files} == {None, Code.MISSING_SLICE}


def test_each_series_has_a_first_volume_of_its_own(tmp_path):
    for name in "AB":
        slices = [ds for part in times(2) for ds in part]
        for number, ds in enumerate(slices):
            ds.SeriesInstanceUID = uid("series", name)
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(name, number)
        save(slices, tmp_path / name)
    found = take_stock([Place(tmp_path, "scans", four_d="first")], IDENTITY)
    assert len(found.scans) == 2
    assert {path.parent.name for scan in found.scans for path in scan.paths} == {"A", "B"}


def test_what_is_left_out_is_accounted_for_and_forgotten_with_the_first(study, tmp_path):
    shutil.rmtree(tmp_path / "data" / "series")
    save([ds for part in times() for ds in part], tmp_path / "data" / "fmri")
    plan = read_json(study.plan)
    plan["study"]["sources"][0]["four_d"] = "first"
    write_json(study.plan, plan)
    index.run(study.root)
    assert table(study.inventory)["status"].value_counts().to_dict() == {"left_out": 16, "volume": 9}
    assert len(table(study.shard("00"))) == 2
    forget.run(study.root, "P1")
    index.run(study.root)
    assert table(study.inventory)["status"].value_counts().to_dict() == {"forgotten": 24, "volume": 1}
    convert.run(tmp_path / "data", tmp_path / "out", four_d="first")
    assert table(tmp_path / "out" / "inventory.tsv")["status"].value_counts().to_dict() == {"left_out": 16, "volume": 9}
