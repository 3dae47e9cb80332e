"""Folders that hold more than scans: archives, a DICOMDIR, links, pipes, what cannot be read, names made to hurt, files that change."""

import os
import socket
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from faults.series import make_series, save
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.labels import sources
from pipeline.plan import make_plan, plan_json
from pipeline.scans.identity import Identity, read_crosswalk
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.quarantine import Code
from pipeline.verbs import convert, index, preprocess
from pipeline.volumes.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
IDENTITY = Identity(bytes(32))
HOSTILE = (
    ";touch hurt;", "$(touch hurt)", "`touch hurt`", "it's \"quoted\"", "two\nlines", "tab\there", "\N{BRAIN}\N{DNA DOUBLE HELIX}", "-rf",
    "--help", "..name", "%s%n", "back\\slash", "{wildcard}", "x" * 240, "nul", "a|b>hurt&c", "e\u0301\u202etxt", os.fsdecode(b"\xff\xfe"),
)  # fmt: skip


def picture(number=0, shape=(24, 22, 20)):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return (900 * np.exp(-2 * (x**2 + y**2 + z**2)) + np.random.default_rng(number).normal(0, 9, shape)).astype(np.int16)


def save_nifti(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(picture(number), np.diag([1.0, 1.5, 2.0, 1.0])), path)
    return path


def stock(folder):
    found = take_stock([Place(folder, "scans", "MR")], IDENTITY)
    assert len({file.relative for file in found.files}) == len(found.files)
    return found, {file.relative: (file.status, file.code) for file in found.files}


def test_archives_are_left_alone(tmp_path):
    (path,) = save(make_series(1), tmp_path / "series")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "../../slip.dcm")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        archive.add(path, "../slip.dcm")
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        archive.add(path, "slip.dcm")
    before = sorted(tmp_path.rglob("*"))
    _, status = stock(tmp_path)
    assert {status[name] for name in ("a.zip", "b.tar.gz", "c.tar")} == {("not_image", None)}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dicomdir_is_not_followed(tmp_path):
    ds, record = Dataset(), Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["..", "..", "etc", "passwd"]
    ds.DirectoryRecordSequence, ds.FileSetID = [record], "X"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID, ds.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.1.3.10"
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    (tmp_path / "in").mkdir()
    pydicom.dcmwrite(tmp_path / "in/DICOMDIR", ds, enforce_file_format=True)
    found, status = stock(tmp_path / "in")
    assert status == {"DICOMDIR": ("not_image", None)}
    assert not found.scans


def test_links_pipes_sockets_and_devices_are_listed_and_never_opened(tmp_path, monkeypatch):
    root = tmp_path / "in"
    save_nifti(root / "a.nii.gz")
    save_nifti(tmp_path / "outside/b.nii.gz")
    (root / "inside").symlink_to(root / "a.nii.gz")
    (root / "outside").symlink_to(tmp_path / "outside/b.nii.gz")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "self").symlink_to(root)
    (root / "nowhere").symlink_to(root / "gone")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe.nii.gz")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as place:
        place.bind("socket.dcm")
    expected = {
        "a.nii.gz": ("volume", None), "inside": ("not_image", None), "pipe.nii.gz": ("quarantined", Code.SPECIAL_FILE),
        "socket.dcm": ("quarantined", Code.SPECIAL_FILE),
    }  # fmt: skip
    expected |= dict.fromkeys(("outside", "folder", "self", "nowhere", "loop"), ("quarantined", Code.LINK))
    begin = time.monotonic()
    assert stock(root)[1] == expected
    assert time.monotonic() - begin < 5
    convert.run(root, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


def test_a_device_is_not_opened(tmp_path):
    try:
        os.mknod(tmp_path / "zero.nii", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    assert stock(tmp_path)[1] == {"zero.nii": ("quarantined", Code.SPECIAL_FILE)}


def forbid(monkeypatch, *names):
    """Makes folders and files of these names unreadable, whoever runs the test."""
    scandir, opened = os.scandir, Path.open

    def closed(path="."):
        if os.path.basename(path) in names:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    def refused(path, *arguments, **settings):
        if path.name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **settings)

    monkeypatch.setattr(os, "scandir", closed)
    monkeypatch.setattr(Path, "open", refused)


def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(tmp_path, monkeypatch):
    for name in ("a/1.nii.gz", "secret/2.nii.gz", "z/3.nii.gz", "z/hidden.nii.gz", "z/last/4.nii.gz"):
        save_nifti(tmp_path / name)
    forbid(monkeypatch, "secret", "hidden.nii.gz", "last")
    _, status = stock(tmp_path)
    codes = {name: code for name, (_, code) in status.items()}
    assert codes == {"a/1.nii.gz": None, "z/3.nii.gz": None} | dict.fromkeys(("secret", "z/hidden.nii.gz", "z/last"), Code.UNREADABLE)
    forbid(monkeypatch, tmp_path.name)
    with pytest.raises(ValueError, match="cannot be listed"):
        stock(tmp_path)


def planned(root, data):
    (root / "study.yaml").write_text(
        "sources: [{path: '{data}', modality: MR}]\nsplit: {test: 1, validation: 1}\nshards: 1\npreprocess: {crop_body: false}\n"
    )
    plan = make_plan(root / "study.yaml", str(data), str(root / "results"))
    where = StudyFolder(Path(plan.results))
    write_json(where.plan, plan_json(plan))
    return where


def table(path):
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def test_names_made_to_hurt_are_hashed_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    for number, name in enumerate(HOSTILE):
        save_nifti(data / name / f"{name[:200]}.nii.gz", number)
    slices = make_series(shape=(40, 30))
    for ds in slices:
        ds.PatientID, ds.PatientName = "$(touch hurt); '\"\n..", "x" * 300
    save(slices, data / "..series")
    where = planned(tmp_path, data)
    index.run(where.root)
    preprocess.run(where.root, "00")
    files = table(where.inventory)
    assert Counter(files["status"]) == {"volume": len(HOSTILE) + 8}
    assert files["scan_id"].str.fullmatch("[a-z0-9]{16}").all()
    assert len(Store(where.store).names()) == len(HOSTILE) + 1
    assert {path for path in read_crosswalk(where)["path"]} == {str(path) for path in data.rglob("*") if path.is_file()}
    convert.run(data, tmp_path / "out")
    assert len(table(tmp_path / "out/inventory.tsv")) == len(files)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == len(HOSTILE) + 1
    assert not [path for path in tmp_path.rglob("*") if path.name == "hurt"]


@pytest.mark.parametrize("when", ["before it is read", "while it is read", "gone"])
def test_a_file_that_changes_after_index_is_refused_until_index_sees_it(tmp_path, monkeypatch, when):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    for number in range(3):
        save_nifti(tmp_path / f"data/{number}.nii.gz", number)
    where, changing = planned(tmp_path, tmp_path / "data"), tmp_path / "data/1.nii.gz"
    index.run(where.root)
    read = sources.read_source
    if when == "before it is read":
        save_nifti(changing, 77)
    elif when == "gone":
        changing.unlink()
    else:
        monkeypatch.setattr(
            sources,
            "read_source",
            lambda kind, paths, **limits: (read(kind, paths, **limits), save_nifti(tmp_path / "data/1.nii.gz", 77))[0],
        )
    preprocess.run(where.root, "00")
    refused = table(where.shard_refused("00"))
    assert refused["code"].to_list() == ["CHANGED"]
    assert len(Store(where.store).names()) == 2
    monkeypatch.setattr(sources, "read_source", read)
    save_nifti(changing, 78)
    index.run(where.root)
    preprocess.run(where.root, "00")
    assert len(Store(where.store).names()) == 3
    assert table(where.shard_refused("00")).empty


def test_voxels_beside_their_header_that_change_after_index_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    for number in range(2):
        save_nifti(tmp_path / f"data/{number}.nii.gz", number)
    nib.save(nib.Nifti1Pair(picture(2), np.diag([1.0, 1.5, 2.0, 1.0])), tmp_path / "data/pair.hdr")
    where = planned(tmp_path, tmp_path / "data")
    index.run(where.root)
    before = table(where.shard("00"))
    index.run(where.root)
    assert table(where.shard("00")).equals(before)
    os.utime(tmp_path / "data/pair.img", (1, 1))
    preprocess.run(where.root, "00")
    assert table(where.shard_refused("00"))["code"].to_list() == ["CHANGED"]
    index.run(where.root)
    preprocess.run(where.root, "00")
    assert table(where.shard_refused("00")).empty
    assert len(Store(where.store).names()) == 3
