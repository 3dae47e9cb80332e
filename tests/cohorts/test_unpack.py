"""Archives that mean harm are refused whole."""

import io
import stat
import tarfile
import zipfile

import pytest

from pipeline.cohorts import _unpack
from pipeline.cohorts._unpack import unpack


def tar_of(path, *members):
    with tarfile.open(path, "w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def everything(name):
    return name


def test_only_wanted_members_are_written_under_the_names_they_are_given(tmp_path):
    archive = tar_of(tmp_path / "a.tar", (member("task", tarfile.DIRTYPE), b""), (member("task/one"), b"1"), (member("task/two"), b"2"))
    written = unpack(archive, tmp_path / "out", {"task/one": "images/one"}.get)
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == ["images/one"]
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == ["one"]
    assert written[0].read_bytes() == b"1"


@pytest.mark.parametrize(
    "evil",
    [
        member("../out"),
        member("a/../../out"),
        member("/etc/out"),
        member("C:/out"),
        member("a\\..\\out"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "good"),
        member("device", tarfile.CHRTYPE),
        member("block", tarfile.BLKTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name} {info.type!r}",
)
def test_a_tar_with_an_evil_member_writes_nothing(tmp_path, evil):
    archive = tar_of(tmp_path / "a.tar", (member("good"), b"good"), (evil, b""))
    with pytest.raises(ValueError, match="nothing is unpacked"):
        unpack(archive, tmp_path / "out", lambda name: "good" if name == "good" else None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_a_zip_with_a_name_that_leads_out_writes_nothing(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", b"good")
        archive.writestr(name, b"evil")
    with pytest.raises(ValueError, match="leads out"):
        unpack(tmp_path / "a.zip", tmp_path / "out", everything)
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match="link"):
        unpack(tmp_path / "a.zip", tmp_path / "out", everything)


def test_a_target_that_leads_out_is_refused_too(tmp_path):
    archive = tar_of(tmp_path / "a.tar", (member("good"), b"good"))
    with pytest.raises(ValueError, match="leads out"):
        unpack(archive, tmp_path / "out", lambda name: "../elsewhere")


def test_two_members_of_one_target_are_refused(tmp_path):
    archive = tar_of(tmp_path / "a.tar", (member("a/scan"), b"1"), (member("b/scan"), b"2"))
    with pytest.raises(ValueError, match="two files named 'scan'"):
        unpack(archive, tmp_path / "out", lambda name: name.rpartition("/")[2])


def test_more_bytes_than_the_limit_are_refused_before_any_is_written(tmp_path):
    archive = tar_of(tmp_path / "a.tar", (member("one"), bytes(600)), (member("two"), bytes(600)))
    with pytest.raises(ValueError, match="more than the limit"):
        unpack(archive, tmp_path / "out", everything, max_bytes=1000)
    assert not (tmp_path / "out").exists()
    assert len(unpack(archive, tmp_path / "out", everything, max_bytes=1200)) == 2


def test_more_members_than_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_unpack, "MAX_MEMBERS", 2)
    archive = tar_of(tmp_path / "a.tar", *((member(str(number)), b"") for number in range(3)))
    with pytest.raises(ValueError, match="more than 2 files"):
        unpack(archive, tmp_path / "out", everything)


@pytest.mark.parametrize("content", [b"no archive at all", b""])
def test_what_is_no_archive_is_named(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tar: is damaged"):
        unpack(tmp_path / "a.tar", tmp_path / "out", everything)
