"""What goes on with a training that ended with 75: itself at once, or the whole job after a requeue; the shell lines are the rules' own."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "workflow" / "resuming.sh"
# Ends with 75 on SIGTERM, once; what is left of its work takes no time.
TRAINING = """#!/bin/sh
echo call >> calls
[ "$(wc -l < calls)" -ge 2 ] && exit "${LAST:-0}"
trap 'echo saved; exit 75' TERM
touch ready
while :; do sleep 0.05; done
"""
SCONTROL = """#!/bin/sh
echo "$@" >> requeued
exit "${REFUSED:-0}"
"""


def shell_line():
    """The shell command of rule pretrain, with its holes filled."""
    text = (ROOT / "workflow" / "rules" / "pretrain.smk").read_text()
    line = re.search(r'"(trap : TERM; .*)"\n', text)[1]
    values = {"params.resuming": str(SCRIPT), "params.folder": "folder", "wildcards.run": "run", "resources.ranks": "1", "log": "log.txt"}
    return re.sub(r"\{([^}]*):q\}", lambda hole: values[hole[1]], line)


@pytest.fixture
def start(tmp_path):
    """Starts the rule's line in bash, as Snakemake does, in a process group of its own; waits until the training runs."""
    for name, text in {"vesalius": TRAINING, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    begun = []

    def go(**environment):
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **environment}
        env.pop("SLURM_JOB_ID", None) if "SLURM_JOB_ID" not in environment else None
        job = subprocess.Popen(["bash", "-c", f"set -euo pipefail; {shell_line()}"], cwd=tmp_path, env=env, start_new_session=True)
        begun.append(job)
        wait_for(tmp_path / "ready")
        return job

    yield go
    for job in begun:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def wait_for(path, seconds=20):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.02)


def tell_training(folder):
    """SIGTERM to the training alone."""
    found = subprocess.run(["pgrep", "-f", f"{folder}/vesalius pretrain"], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(found[0]), signal.SIGTERM)


def calls(folder):
    return len((folder / "calls").read_text().splitlines())


@pytest.mark.parametrize("last", [0, 3])
def test_a_training_that_was_told_alone_goes_on_at_once(start, tmp_path, last):
    job = start(LAST=str(last))
    tell_training(tmp_path)
    assert job.wait(20) == last
    assert calls(tmp_path) == 2
    assert (tmp_path / "log.txt").read_text().splitlines() == ["saved", "going on"]


def test_if_all_were_told_75_is_passed_on_after_the_training_has_saved(start, tmp_path):
    job = start()
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(20) == 75
    assert calls(tmp_path) == 1
    assert (tmp_path / "log.txt").read_text().splitlines()[-1] == "saved"


def test_in_a_slurm_job_it_is_requeued_and_waits_for_the_end(start, tmp_path):
    job = start(SLURM_JOB_ID="4711")
    os.killpg(job.pid, signal.SIGTERM)
    wait_for(tmp_path / "requeued")
    os.killpg(job.pid, signal.SIGTERM)  # as Slurm does before it ends a requeued job
    time.sleep(0.3)
    assert job.poll() is None, "a body that ends before Slurm ends it is a failure to Snakemake"
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
    assert calls(tmp_path) == 1


def test_where_a_job_may_not_be_requeued_75_is_passed_on(start, tmp_path):
    job = start(SLURM_JOB_ID="4711", REFUSED="1")
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(20) == 75


def test_a_training_whose_snakemake_is_gone_is_not_called_again(start, tmp_path):
    job = start()
    line = f"set -euo pipefail; {shell_line()}"
    (tmp_path / "ready").unlink()
    (tmp_path / "calls").unlink()
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    code = f"bash -c {subprocess.list2cmdline([line])} & echo $! > bash.pid; wait"
    snakemake = subprocess.Popen(["bash", "-c", code], cwd=tmp_path, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    wait_for(tmp_path / "ready")
    snakemake.kill()
    snakemake.wait()
    tell_training(tmp_path)
    time.sleep(1.0)
    assert calls(tmp_path) == 1


def test_the_slurm_profile_asks_for_the_signal_and_for_requeueing():
    text = (ROOT / "workflow" / "profiles" / "slurm" / "profile.yaml").read_text()
    assert "--requeue --signal=TERM@180" in text
    for name in ("pretrain", "transfer"):
        assert "RESUMING" in (ROOT / "workflow" / "rules" / f"{name}.smk").read_text()
