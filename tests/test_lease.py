"""Two writers never share a run's folder, with locks and without, and a dead owner is no owner."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time

import pytest

from pipeline import lease as room
from pipeline.lease import lease

HOLD = """
import sys
from pathlib import Path
from pipeline.lease import lease
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(room, "BEAT_S", 0.05)
    monkeypatch.setattr(room, "PATIENCE_S", 2.0)


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def leave(folder, **card):
    """What an owner that is gone, or far away, left in the file."""
    new = folder / ".lease.new"
    new.write_text(json.dumps({"process": 7, "host": "elsewhere", "job": "12", "token": "x", "beat": 3, **card}))
    new.rename(folder / ".lease")


def beating(folder, stop_at):
    """A process that beats as an owner on another machine would."""
    pid = os.fork()
    if not pid:
        for number in range(1000):
            leave(folder, beat=number)
            time.sleep(0.05)
            if time.monotonic() > stop_at:
                os._exit(0)
    return pid


def test_a_second_writer_is_refused_while_the_first_lives_and_admitted_when_it_dies(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline().strip() == "held"
    with pytest.raises(ValueError, match=f"process {owner.pid}"), lease(tmp_path):
        pass
    owner.kill()
    owner.wait()
    begun = time.monotonic()
    with lease(tmp_path):
        assert json.loads((tmp_path / ".lease").read_text())["process"] == os.getpid()
    assert time.monotonic() - begun < room.PATIENCE_S / 2
    assert (tmp_path / ".lease").read_text() == ""


@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_an_owner_on_another_machine_that_beats_is_refused(tmp_path, quick, locks, request):
    if locks == "without locks":
        request.getfixturevalue("without_locks")
    leave(tmp_path)
    pid = beating(tmp_path, time.monotonic() + 5)
    try:
        with pytest.raises(ValueError, match="process 7 on elsewhere, job 12"), lease(tmp_path):
            pass
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_an_owner_on_another_machine_that_has_fallen_silent_loses_it(tmp_path, quick, locks, request):
    if locks == "without locks":
        request.getfixturevalue("without_locks")
    leave(tmp_path)
    begun = time.monotonic()
    with lease(tmp_path):
        assert time.monotonic() - begun >= 2.0


def test_without_locks_an_owner_on_this_machine_is_seen_by_its_beat(tmp_path, quick, without_locks):
    with lease(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()}"), lease(tmp_path):
        pass
    with lease(tmp_path):
        pass


def test_an_owner_that_stood_still_and_lost_its_lease_is_told(tmp_path, quick):
    with lease(tmp_path) as held:
        held.check()
        held.ended.set()  # suspended: no sign of life
        time.sleep(0.1)
        leave(tmp_path)
        with pytest.raises(ValueError, match="elsewhere, job 12 has taken this folder"):
            held.check()
    assert "elsewhere" in (tmp_path / ".lease").read_text()


@pytest.mark.parametrize("content", [b"", b"{", b"process 12 on host", b"[]", b"\xff\xfe", b"{}"])
def test_what_is_no_name_is_nobody(tmp_path, content):
    (tmp_path / ".lease").write_bytes(content)
    with lease(tmp_path):
        pass


def test_another_error_of_the_file_system_is_not_taken_for_one_without_locks(tmp_path, monkeypatch):
    def broken(handle, how):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"), lease(tmp_path):
        pass
