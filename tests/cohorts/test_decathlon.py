"""A Decathlon task from a server on this machine, or from a folder that is there; and the verb that asks for it."""

import functools
import hashlib
import http.server
import tarfile
import threading

import pytest

from pipeline.cohorts import decathlon
from pipeline.cohorts.decathlon import Decathlon
from pipeline.verbs.sample import make_sample

NAMES = ("imagesTr/h_001.nii.gz", "imagesTr/h_002.nii.gz", "imagesTr/._h_001.nii.gz", "imagesTs/h_009.nii.gz", "labelsTr/h_001.nii.gz",
         "labelsTr/h_002.nii.gz", "labelsTr/._h_002.nii.gz", "dataset.json")  # fmt: skip


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture
def archive(tmp_path):
    """A tar such as the Decathlon's, in a folder of its own."""
    task = tmp_path / "made" / "Task04_Hippocampus"
    for name in NAMES:
        (task / name).parent.mkdir(parents=True, exist_ok=True)
        (task / name).write_bytes(name.encode())
    path = tmp_path / "served" / "Task04_Hippocampus.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        tar.add(task, "Task04_Hippocampus")
    return path


@pytest.fixture
def url(archive, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    digest = f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=archive.parent))
    threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/{archive.name}"
    monkeypatch.setitem(decathlon.ARCHIVES, "hippocampus", (address, digest))
    yield address
    server.shutdown()
    server.server_close()


def names_in(data):
    folders = [data / name for name in ("images", "labels")]
    return sorted(path.relative_to(data).as_posix() for folder in folders for path in folder.iterdir())


WANTED = ["images/h_001.nii.gz", "images/h_002.nii.gz", "labels/h_001.nii.gz", "labels/h_002.nii.gz"]


def test_labelled_images_are_downloaded_and_hidden_files_are_not(url, tmp_path):
    (card,) = Decathlon(Decathlon.Config()).make(tmp_path / "data")
    assert names_in(tmp_path / "data") == WANTED
    assert (tmp_path / "data" / "labels" / "h_002.nii.gz").read_text() == "labelsTr/h_002.nii.gz"
    assert (card["files"], card["licence"], card["archive"]["url"]) == (4, "CC-BY-SA 4.0", url)


def test_a_second_call_downloads_nothing_and_says_the_same(url, archive, tmp_path):
    first = Decathlon(Decathlon.Config()).make(tmp_path / "data")
    archive.unlink()
    assert Decathlon(Decathlon.Config()).make(tmp_path / "data") == first


def test_a_lost_file_comes_back_from_the_cached_archive(url, archive, tmp_path):
    Decathlon(Decathlon.Config()).make(tmp_path / "data")
    archive.unlink()
    (tmp_path / "data" / "images" / "h_002.nii.gz").unlink()
    Decathlon(Decathlon.Config()).make(tmp_path / "data")
    assert names_in(tmp_path / "data") == WANTED


def test_unpacking_that_was_killed_half_way_is_not_taken_for_a_folder_of_the_users(url, tmp_path, monkeypatch):
    real = decathlon.unpack

    def killed(archive, into, wanted, *limits):
        found = real(archive, into, lambda name: wanted(name) if "001" in name else None, *limits)
        if found[0].parent.name == "labels":
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(decathlon, "unpack", killed)
    with pytest.raises(KeyboardInterrupt):
        Decathlon(Decathlon.Config()).make(tmp_path / "data")
    assert names_in(tmp_path / "data") == [WANTED[0], WANTED[2]]
    monkeypatch.setattr(decathlon, "unpack", real)
    Decathlon(Decathlon.Config()).make(tmp_path / "data")
    assert names_in(tmp_path / "data") == WANTED


def test_an_archive_with_another_digest_is_not_unpacked(url, tmp_path, monkeypatch):
    monkeypatch.setitem(decathlon.ARCHIVES, "hippocampus", (url, "md5:" + "0" * 32))
    with pytest.raises(ValueError, match="md5"):
        Decathlon(Decathlon.Config()).make(tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.nii.gz"))


def test_a_folder_that_is_there_is_used_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(decathlon, "fetch_url", lambda *words: pytest.fail("nothing is to be downloaded"))
    for name in WANTED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"scan")
    study = {"name": "own", "sample": {"decathlon": {}}, "data": str(tmp_path)}
    card = make_sample(study)
    assert (card["parts"][0]["files"], card["parts"][0]["archive"]) == (4, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "labels"]


def test_the_archives_own_folder_names_are_refused_with_the_remedy(tmp_path):
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "h.nii.gz").write_bytes(b"scan")
    with pytest.raises(ValueError, match="rename"):
        Decathlon(Decathlon.Config()).make(tmp_path)


def test_a_study_without_a_cohort_says_so():
    assert make_sample({"name": "own", "sample": None, "data": ""}) == {"cohort": None}


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"nothing": {}}, "known are decathlon, embedded"),
        ({"embedded": {"subject": 2}}, "sample.embedded.subject"),
        ({"decathlon": {}, "embedded": {}}, "exactly one"),
        ({"embedded": {}}, "data: is empty"),
    ],
)
def test_a_wrong_cohort_is_one_message_that_names_the_key(sample, message):
    with pytest.raises(ValueError, match=message):
        make_sample({"name": "own", "sample": sample, "data": ""})
