"""What `vesalius run` shows of Snakemake: record by record, and with the real Snakemake when a job fails."""

import importlib
import logging
import re
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from pipeline.verbs import run as verb

COMMAND = "vesalius pretrain results/tiny r-s0-aa | tee r.log"
BEGIN = {"event": LogEvent.JOB_INFO, "jobid": 7, "rule_name": "pretrain", "wildcards": {"run": "r-s0-aa"}, "shellcmd": COMMAND}
DONE = {"event": LogEvent.JOB_FINISHED, "job_id": 7}
FAILED = {"event": LogEvent.JOB_ERROR, "jobid": 7, "rule_name": "pretrain", "rule_msg": None}


@pytest.fixture
def show(monkeypatch, capsys):
    """A function that hands one record to the handler and gives what it prints."""
    monkeypatch.syspath_prepend(str(verb.LOGGER))
    handler = importlib.import_module("snakemake_logger_plugin_vesalius").LogHandler(None, None)

    def handed(message=None, level=logging.INFO, at_s=0.0, **fields):
        handler.emit(logging.makeLogRecord({"msg": message, "levelno": level, "created": at_s, **fields}))
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err.splitlines()

    return handed


def progress(done, total):
    return {"event": LogEvent.PROGRESS, "done": done, "total": total}


def test_a_job_is_a_line_where_it_begins_and_a_line_where_it_ends(show):
    assert show(**BEGIN, at_s=10.0) == ["run: pretrain r-s0-aa begins"]
    assert show(**DONE, at_s=21.6) == []
    assert show(**progress(8, 19)) == ["run: pretrain r-s0-aa is done, 12 s; 8 of 19 jobs"]
    assert show(**progress(8, 19)) == []


def test_the_rule_that_names_all_files_is_no_job(show):
    assert show(**{**BEGIN, "jobid": 0, "rule_name": "all", "wildcards": {}, "shellcmd": None}) == []
    show(event=LogEvent.JOB_FINISHED, job_id=0)
    assert show(**progress(19, 19)) == ["run: everything is done; 19 of 19 jobs"]


def test_a_job_that_failed_is_told_with_how_it_ended_and_the_end_of_its_log(show, tmp_path):
    log = tmp_path / "r.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)) + "vesalius: training.batch: is wrong\n")
    show(**BEGIN, at_s=10.0)
    told = f"RuleException:\nCalledProcessError in file x:\nCommand 'set -euo pipefail;  {COMMAND}' returned non-zero exit status 137."
    assert show(told, logging.ERROR, event=LogEvent.ERROR) == []
    first, *lines = show(level=logging.ERROR, **FAILED, log=[str(log)], at_s=13.0)
    assert first == f"run: pretrain r-s0-aa FAILED after 3 s (returned non-zero exit status 137); the end of {log}:"
    assert lines == [f"    line {number}" for number in range(81, 100)] + ["    vesalius: training.batch: is wrong"]
    final = "Exiting because a job execution failed. Look above for error messages"
    assert show(final, logging.ERROR) == ["run: FAILED:", f"  pretrain r-s0-aa (log: {log})"]


def test_a_job_that_ends_since_somebody_stopped_the_study_was_stopped(show):
    show(**BEGIN)
    words = "Terminating processes on user request, this might take some time."
    assert show(words) == [words]
    assert show(level=logging.ERROR, **FAILED, log=[], at_s=3.0)[0].startswith("run: pretrain r-s0-aa was stopped after 3 s")


def test_what_a_cluster_says_of_a_failed_job_is_told_though_it_left_no_log(show):
    show(**BEGIN)
    first, line = show(level=logging.ERROR, **{**FAILED, "rule_msg": "SLURM status is: 'OUT_OF_MEMORY'"}, log=["absent.log"], at_s=3.0)
    assert first == "run: pretrain r-s0-aa FAILED after 3 s (SLURM status is: 'OUT_OF_MEMORY'); the end of absent.log:"
    assert line == "    cannot be read: No such file or directory"


def test_a_job_that_a_second_try_brought_to_its_end_is_no_failure(show):
    show(**BEGIN)
    show(level=logging.ERROR, **FAILED, log=[])
    assert show(**BEGIN, at_s=5.0) == ["run: pretrain r-s0-aa begins"]
    show(**DONE, at_s=6.0)
    assert show(**progress(1, 2)) == ["run: pretrain r-s0-aa is done, 1 s; 1 of 2 jobs"]
    assert show("Exiting because a job execution failed.", logging.ERROR) == ["Exiting because a job execution failed."]


@pytest.mark.parametrize(
    ("message", "level", "event", "shown"),
    [
        ("Select jobs to execute...", logging.INFO, None, False),
        ("Job stats:", logging.INFO, LogEvent.RUN_INFO, False),
        ("Nothing to be done (all requested files are present and up to date).", logging.INFO, None, True),
        ("Complete log(s): /x/y.log", logging.INFO, None, True),
        ("a warning", logging.WARNING, None, True),
        ("WorkflowError:\nresults/x: another snakemake works on this study", logging.ERROR, LogEvent.ERROR, True),
        ("RuleException:\nCalledProcessError in file x:\nCommand 'of no known job' died", logging.ERROR, LogEvent.ERROR, True),
    ],
)
def test_what_is_no_job_is_shown_if_somebody_must_know_it(show, message, level, event, shown):
    assert show(message, level, event=event) == (message.splitlines() if shown else [])


def test_of_the_real_snakemake_a_failed_job_is_shown_and_the_rest_is_in_its_log(fresh):
    command = fresh.root / "bin" / "vesalius"
    command.write_text(command.read_text().replace("exec", '[ "$1" = pretrain ] && echo "training.batch: is wrong" && exit 3\nexec'))
    code, output, _ = fresh.snakemake("--logger", "vesalius", PYTHONPATH=str(verb.LOGGER))
    assert code == 1
    failed = (
        r"^run: pretrain r-s0-aa FAILED after \d+ s \(returned non-zero exit status 3\); the end of (\S+):\n    training.batch: is wrong$"
    )
    (log,) = re.findall(failed, output, re.MULTILINE)
    assert f"run: FAILED:\n  pretrain r-s0-aa (log: {log})\n" in output
    assert re.search(r"^run: finetune organ-scratch-x is done", output, re.MULTILINE), "what does not need it goes on"
    assert "localrule" not in output
    assert "RuleException" not in output
    (whole,) = re.findall(r"^Complete log\(s\): (\S+)$", output, re.MULTILINE)
    assert "Error in rule pretrain:" in Path(whole).read_text()
