"""`vesalius run`: one owner a study, leftovers of a killed owner, and what is printed at the end."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from pipeline import __main__ as main
from pipeline.files import read_json, write_json
from pipeline.verbs import run as verb

GONE = {"pid": 2**22 - 1, "started": 1.0, "token": "of-a-killed-run"}


def sleeper(token):
    """A process that an owner with this token would have started."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, verb.TOKEN: token})


def test_an_owner_is_known_while_it_works_and_not_afterwards(tmp_path):
    with verb._owning(tmp_path) as token:
        owner = read_json(tmp_path / "owner.json")
        assert (owner["pid"], owner["token"]) == (os.getpid(), token)
    assert not (tmp_path / "owner.json").exists()


def test_a_study_that_somebody_runs_is_refused(tmp_path):
    with verb._owning(tmp_path), pytest.raises(ValueError, match="is running this study"), verb._owning(tmp_path):
        pass


def test_what_a_killed_owner_left_behind_is_ended_and_nothing_else(tmp_path):
    left, other = sleeper(GONE["token"]), sleeper("of-another-run")
    try:
        write_json(tmp_path / "owner.json", GONE)
        with verb._owning(tmp_path):
            assert not psutil.pid_exists(left.pid) or left.poll() is not None
            assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        left.kill()
        left.wait()


def test_a_process_number_that_was_given_to_another_process_is_no_owner(tmp_path):
    write_json(tmp_path / "owner.json", {**GONE, "pid": os.getpid()})
    with verb._owning(tmp_path) as token:
        assert token != GONE["token"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("profile", Path("absent"), "--profile: there is no folder absent"),
        ("cores", "0", "--cores: '0' is neither"),
        ("cores", "many", "--cores: 'many'"),
    ],
)
def test_wrong_options_are_told_before_anything_is_planned(tmp_path, option, value, message):
    with pytest.raises(ValueError, match=message):
        verb.run(tmp_path / "absent.yaml", None, results=tmp_path, **{"cores": "1", "profile": tmp_path, option: value})


def test_a_misspelt_verb_is_answered_with_the_one_that_was_meant():
    called = subprocess.run([sys.executable, "-m", "pipeline", "pretrian"], capture_output=True, text=True, check=False)
    assert called.returncode == 2
    assert "Did you mean 'pretrain'?" in called.stderr


def test_the_exit_code_of_snakemake_comes_back():
    assert verb._supervise([sys.executable, "-c", "raise SystemExit(7)"], dict(os.environ)) == 7


@pytest.mark.parametrize("inherited", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background job of a shell"])
def test_an_interrupt_reaches_the_whole_group(tmp_path, inherited):
    ready = tmp_path / "ready"
    child = (
        f"import time\ntry:\n    open({str(ready)!r}, 'w').close(); time.sleep(600)\nexcept KeyboardInterrupt:\n    raise SystemExit(130)"
    )

    def interrupt():
        while not ready.exists():
            pass
        os.kill(os.getpid(), verb.signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    old = signal.signal(signal.SIGINT, inherited)
    try:
        assert verb._supervise([sys.executable, "-c", child], dict(os.environ)) == 130
    finally:
        signal.signal(signal.SIGINT, old)


def test_the_dashboard_command_names_the_store_of_the_study():
    command = verb.dashboard(Path("results/demo"))
    assert command.startswith("MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false ")
    assert "--backend-store-uri sqlite:///results/demo/mlflow.db --host 127.0.0.1" in command


@pytest.mark.parametrize(("number", "remedy"), [(28, "free some space"), (13, "may write to"), (30, "may write to")])
def test_what_the_system_refuses_is_told_with_the_place_and_a_remedy(number, remedy):
    words = main._words(OSError(number, os.strerror(number), "results/demo"))
    assert words.startswith(f"results/demo: {os.strerror(number)}; ")
    assert remedy in words
