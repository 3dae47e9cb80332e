"""A store under attack: full and failing disks, kills, two writers, flipped bits, wrong clocks, too little memory."""

import errno
import mmap
import multiprocessing
import os
import pathlib
import resource
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "campaigns"))
from store_kills import SHARD, at_write, copied, finish, full_disk, in_fork, killed, make_study, tree

from pipeline.folder import StudyFolder
from pipeline.labels import sources
from pipeline.lease import lease
from pipeline.manifest import read_manifest
from pipeline.scans import patience
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.reading import read_scan
from pipeline.verbs import index, preprocess, split, verify
from pipeline.volumes import jobs
from pipeline.volumes.memory import at_most
from pipeline.volumes.store import Store


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """(folder, tree of an uninterrupted run, number of its writes) of three people, indexed."""
    root = tmp_path_factory.mktemp("store")
    patch = pytest.MonkeyPatch()
    patch.setenv("VESALIUS_PRIVATE", str(root / "private"))
    folder = make_study(root, 3)
    whole = copied(folder, root / "whole")
    with at_write(0, full_disk) as writes:
        preprocess.run(whole, SHARD)
    split.run(whole)
    yield folder, tree(whole), writes[0]
    patch.undo()


@pytest.fixture
def fresh(indexed, tmp_path):
    return copied(indexed[0], tmp_path / "tiny")


def whole_files(folder):
    """Nothing of a stopped run is half: no temporary file, each volume that is there is whole, each table is readable."""
    store = Store(folder / "store")
    assert [problem for scan in store for problem in store.verify(scan)] == []
    assert {scan for scan in store.names()} == set(store)
    assert list(folder.rglob("*.tmp")) == []
    return True


@pytest.mark.parametrize("share", np.linspace(0, 1, 9)[:-1])
def test_a_full_disk_leaves_nothing_half_names_the_file_and_is_made_up_for(indexed, fresh, share):
    _, expected, writes = indexed
    with at_write(1 + int(share * writes), full_disk), pytest.raises(OSError) as full:
        preprocess.run(fresh, SHARD)
    assert full.value.errno == errno.ENOSPC
    assert str(fresh) in str(full.value.filename)
    assert not str(full.value.filename).endswith(".tmp")
    whole_files(fresh)
    finish(fresh)
    assert tree(fresh) == expected


@pytest.mark.parametrize("limit_bytes", [200, 3000, 9000])
def test_a_quota_on_the_size_of_files_stops_it_as_cleanly(indexed, fresh, limit_bytes):
    """The limit is the kernel's, so that what is written by compiled code (Arrow) is stopped too."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        jobs.prepare = after(jobs.prepare, limit_bytes)  # behind it the volume is written
        real, jobs.read_parts = jobs.read_parts, lambda *a: (resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)), real(*a))[1]
        preprocess.run(fresh, SHARD)

    assert in_fork(limited) == 1
    whole_files(fresh)
    finish(fresh)
    assert tree(fresh) == indexed[1]


def after(read, limit_bytes):
    """``read``, behind which files may no longer grow beyond the limit; the memory that it reads into is a file to the kernel."""

    def call(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        found = read(*arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
        return found

    return call


@pytest.mark.parametrize("share", [0.05, 0.35, 0.6, 0.9, 0.97])
def test_a_kill_in_the_middle_of_a_write_is_made_up_for(indexed, fresh, share):
    _, expected, writes = indexed

    def trapped():
        with at_write(1 + int(share * writes), killed):
            preprocess.run(fresh, SHARD)

    assert in_fork(trapped) == -signal.SIGKILL
    finish(fresh)
    assert tree(fresh) == expected


def test_kills_at_any_moment_are_made_up_for(indexed, fresh):
    for seconds in (0.05, 0.3, 0.6):
        in_fork(partial(preprocess.run, fresh, SHARD), seconds)
    finish(fresh)
    assert tree(fresh) == indexed[1]


class Failing:
    """Stands for ``Path.open``: the first ``times`` openings of a file fail, in whatever process they are; a file counts them."""

    def __init__(self, monkeypatch, tmp_path, name, times, code=errno.EIO):
        self.count, self.name, self.times, self.code, self.real = tmp_path / "count", name, times, code, pathlib.Path.open
        self.count.write_text("")
        monkeypatch.setattr(pathlib.Path, "open", lambda path, *rest, **named: self.open(path, *rest, **named))
        monkeypatch.setattr(patience, "PAUSES_S", (0.0, 0.0, 0.0))

    def open(self, path, *rest, **named):
        if path.name == self.name and path.parent.name == "images" and self.tries < self.times:
            with self.real(self.count, "a") as stream:
                stream.write("x")
            raise OSError(self.code, os.strerror(self.code), str(path))
        return self.real(path, *rest, **named)

    @property
    def tries(self):
        return self.count.stat().st_size


@pytest.fixture
def image(indexed):
    return sorted((indexed[0].parents[1] / "data" / "images").glob("*.nii.gz"))[0]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_three_times_is_asked_again(image, monkeypatch, tmp_path, code):
    before = read_scan("nifti", (image,))
    failing = Failing(monkeypatch, tmp_path, image.name, 3, code)
    np.testing.assert_array_equal(read_scan("nifti", (image,)).voxels, before.voxels)
    assert failing.tries == 3


def test_a_disk_that_goes_on_failing_costs_one_scan(image, monkeypatch, tmp_path, indexed, fresh):
    failing = Failing(monkeypatch, tmp_path, image.name, 1000)
    with pytest.raises(Refused) as refused:
        read_scan("nifti", (image,))
    assert refused.value.code is Code.UNREADABLE
    assert failing.tries == 4
    preprocess.run(fresh, SHARD)
    refused = StudyFolder(fresh).shard_refused(SHARD).read_text().splitlines()
    assert len(refused) == 2
    assert "\tUNREADABLE\t" in refused[1]
    assert len(list(Store(fresh / "store"))) == 2


@pytest.mark.parametrize(("times", "status"), [(3, "volume"), (1000, "quarantined")])
def test_the_index_asks_again_too(image, monkeypatch, tmp_path, times, status):
    Failing(monkeypatch, tmp_path, image.name, times)
    found = take_stock([Place(image.parent, "images")], lambda *words: "".join(words))
    assert {file.path.name: file.status for file in found.files}[image.name] == status
    assert len(found.files) == 3


def write_forever(root, value, times):
    store = Store(root)
    voxels = np.full((1, 40, 40, 40), value, np.int16)
    voxels[0, 0] = np.random.default_rng(value).integers(0, 999, (40, 40))
    meta = {"spacing_mm": [1, 1, 1], "affine": [], "window_low": [0], "window_high": [1], "slope": [1], "inter": [0], "value": value}
    for _ in range(times):
        store.write("ab01", voxels, voxels[0] > value, meta, {"organ": np.full((40, 40, 40), value, np.uint8)})


def test_of_two_writers_of_one_volume_one_wins_and_nothing_is_mixed(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_forever, args=(tmp_path / "store", value, 12)) for value in (3, 5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    store = Store(tmp_path / "store")
    assert store.verify("ab01") == []
    value = store.meta("ab01")["value"]
    assert store.read("ab01")[0, 5, 5, 5] == value
    assert (store.labels("ab01", "organ") == value).all()
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_second_writer_of_a_shard_is_sent_away(fresh):
    with lease(fresh / "shards" / SHARD), pytest.raises(ValueError, match="another process writes here"):
        preprocess.run(fresh, SHARD)
    finish(fresh)


@pytest.mark.parametrize("name", ["", ".body", ".organ.labels", ".fingerprint"])
def test_a_flipped_bit_is_caught_by_verify_and_when_the_file_is_opened(fresh, name):
    finish(fresh)
    scan = next(iter(Store(fresh / "store")))
    path = fresh / "store" / scan[:2] / f"{scan}{name}.b2nd"
    data = bytearray(path.read_bytes())
    data[-len(data) // 3] ^= 1
    path.write_bytes(data)
    store = Store(fresh / "store")
    corner = ((0, 0, 0), (8, 8, 8))
    reads = {
        "": lambda: store.crop(scan, *corner),
        ".body": lambda: store.body(scan),
        ".organ.labels": lambda: store.crop_labels(scan, "organ", *corner),
        ".fingerprint": lambda: store.fingerprint(scan),
    }
    with pytest.raises(ValueError, match="its bytes are not those that were written"):
        reads[name]()
    with pytest.raises(BaseException):  # noqa: B017 - typer's exit
        verify.run(fresh)


def test_a_volume_that_another_process_wrote_anew_is_no_damage(tmp_path):
    write_forever(tmp_path, 3, 1)
    reader = Store(tmp_path)
    assert reader.labels("ab01", "organ").max() == 3
    write_forever(tmp_path, 5, 1)
    reader._arrays.clear()
    assert reader.labels("ab01", "organ").max() == 5


@pytest.fixture
def future(indexed, fresh):
    """All files of a finished study and of its sources come from the year 2100."""
    finish(fresh)
    before = read_manifest(fresh / "manifest.parquet"), tree(fresh)
    paths = [*(indexed[0].parents[1] / "data").rglob("*.nii.gz"), *(path for path in fresh.rglob("*") if path.is_file())]
    times = {path: path.stat().st_mtime_ns for path in paths}
    for path in paths:
        os.utime(path, (4_102_444_800, 4_102_444_800))
    yield fresh, *before
    for path, mtime in times.items():
        if path.exists():
            os.utime(path, ns=(mtime, mtime))


def test_files_from_the_future_change_nothing(future, monkeypatch):
    folder, manifest, files = future
    monkeypatch.setattr("time.time", lambda: 0.0)
    index.run(folder)
    finish(folder)
    now = read_manifest(folder / "manifest.parquet")
    assert [column for column in manifest if now[column].map(str).tolist() != manifest[column].map(str).tolist()] == []
    arrays = {name: sha for name, sha in files.items() if name.endswith(".b2nd")}
    assert {name: sha for name, sha in tree(folder).items() if name.endswith(".b2nd")} == arrays


def test_a_scan_too_large_for_a_worker_is_refused_and_the_others_go_on(indexed, fresh, monkeypatch):
    real = sources.read_source
    large = []

    def read(kind, paths, *labels, memory_mb):
        volume = real(kind, paths, *labels, memory_mb=memory_mb)
        if not large or large == [paths]:
            large[:] = [paths]
            mmap.mmap(-1, 300 << 20)  # what preparing a large scan would take; an array might find memory that is already the process's
        return volume

    monkeypatch.setattr(sources, "read_source", read)
    preprocess.run(fresh, SHARD, memory_mb=200)
    refused = StudyFolder(fresh).shard_refused(SHARD).read_text().splitlines()
    assert len(refused) == 2
    assert "\tTOO_LARGE\t" in refused[1]
    assert "--memory-mb" in refused[1]
    assert len(list(Store(fresh / "store"))) == 2


def test_the_cap_is_lifted_afterwards_and_says_memory_error():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), at_most(100):
        np.empty(8 << 30, np.uint8)  # more than a process keeps of what it freed
    with pytest.raises(MemoryError), at_most(100):
        mmap.mmap(-1, 500 << 20)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
