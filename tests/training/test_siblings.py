"""The processes of one training on one machine: their signals and exit codes, with small scripts for the training."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline.training.distributed import siblings
from pipeline.training.distributed.siblings import train_together

ROOT = Path(__file__).parents[2]
# Says who it is in a file, and ends with 75 on SIGTERM and 130 on the first Ctrl-C.
WAITING = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
signal.signal(signal.SIGINT, lambda *_: (signal.signal(signal.SIGINT, signal.SIG_DFL), time.sleep(0.3), sys.exit(130)))
open("rank" + os.environ["RANK"], "w").write(str(os.getpid()))
time.sleep(60)
"""


def python(code):
    return [sys.executable, "-c", code]


def wait_for(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(pid):
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def start(tmp_path):
    """(the process that started two waiting ranks, the ranks' ids)."""
    code = (
        f"import sys; from pipeline.training.distributed.siblings import train_together; sys.exit(train_together({python(WAITING)!r}, 2))"
    )
    parent = subprocess.Popen(python(code), cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    files = [tmp_path / f"rank{rank}" for rank in range(2)]
    wait_for(lambda: all(path.exists() and path.read_text() for path in files))
    pids = [int(path.read_text()) for path in files]
    yield parent, pids
    for pid in (parent.pid, *pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    parent.wait()


def test_each_rank_hears_who_it_is_and_where_all_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    code = f"import os; open('said' + os.environ['RANK'], 'w').write(' '.join(os.environ[name] for name in {names}))"
    assert train_together(python(code), 3) == 0
    said = [(tmp_path / f"said{rank}").read_text().split() for rank in range(3)]
    assert [words[:4] for words in said] == [[str(rank), str(rank), "3", "localhost"] for rank in range(3)]
    assert len({words[4] for words in said}) == 1


@pytest.mark.parametrize("codes", [(0, 0, 0), (75, 75, 75), (130, 130, 75), (0, 1, 0), (3, 75, 0)])
def test_the_exit_code_is_theirs_and_an_error_outweighs_an_orderly_end(codes):
    code = f"import os, sys; sys.exit({codes}[int(os.environ['RANK'])])"
    errors = [one for one in codes if one not in (0, 75, 130)]
    assert train_together(python(code), 3) == (errors[0] if errors else max(codes))


def test_ranks_that_wait_for_a_dead_one_are_ended_and_told_why(monkeypatch, capfd):
    monkeypatch.setattr(siblings, "GRACE_S", 0.3)
    code = "import os, time; os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else time.sleep(60)"
    begun = time.monotonic()
    assert train_together(python(code), 2) == 137
    assert time.monotonic() - begun < 50
    assert "rank 1 was ended by SIGKILL, so the others are ended" in capfd.readouterr().err


def test_sigterm_reaches_all_ranks(start):
    parent, _ = start
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(60) == 75


def test_ctrl_c_of_a_terminal_reaches_each_rank_once(start):
    parent, _ = start
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait(60) == 130


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the ranks")
def test_ranks_whose_starter_was_killed_are_told_to_stop(start):
    parent, pids = start
    parent.kill()
    wait_for(lambda: not any(running(pid) for pid in pids))


def test_ranks_within_ranks_are_refused(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="--ranks: torchrun or srun"):
        train_together(python(""), 2)
