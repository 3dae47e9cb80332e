"""What `vesalius run` shows of Snakemake: a line where a job begins and one where it ends; of a job that failed, the end of its log.

A logger plugin of Snakemake 9 (snakemake-interface-logger-plugins), which Snakemake finds by its name, since `vesalius run` puts this
folder on PYTHONPATH. Errors and warnings that are no job's are shown in Snakemake's own words, and all it says stands in its own log, whose
path is shown at the end. `--quiet` would not do: it silences that log too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from logging import WARNING, LogRecord
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

TAIL_LINES = 20
STOPPING = ("Terminating processes", "Will exit after")  # somebody pressed Ctrl-C or sent SIGTERM
SHOWN = ("Nothing to be done", "Complete log", *STOPPING)  # of what is neither a job's nor a warning
KNOWN = "WorkflowError:\nAt least one job did not complete"  # the failed jobs were named before


@dataclass
class Job:
    """One that began; ``how`` its command ended, where Snakemake says it."""

    name: str
    command: str
    begun_s: float
    how: str = ""


class LogHandler(LogHandlerBase):
    """Prints lines to stderr. Snakemake hands over one record after the other, in one thread."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.ended: list[str] = []
        self.failed: dict[int, str] = {}
        self.stopping = False

    def emit(self, record: LogRecord) -> None:
        try:
            for line in self.lines(record):
                print(line, file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)

    def lines(self, record: LogRecord) -> list[str]:
        """What is printed of a record."""
        event, text = getattr(record, "event", None), str(record.msg)
        if event == LogEvent.JOB_INFO:
            return self.begin(record)
        if event == LogEvent.JOB_FINISHED:
            return self.end(record)
        if event == LogEvent.PROGRESS:
            ended, self.ended = self.ended, []
            return [f"{line}; {record.done} of {record.total} jobs" for line in ended]
        if event == LogEvent.JOB_ERROR:
            return self.fail(record)
        if event == LogEvent.ERROR and (text.startswith(KNOWN) or self.is_told_of_a_job(text)):
            return []
        if text.startswith("Exiting because a job execution failed") and self.failed:
            return ["run: FAILED:", *(f"  {job}" for job in self.failed.values())]
        self.stopping |= text.startswith(STOPPING)
        return [self.format(record)] if record.levelno >= WARNING or text.startswith(SHOWN) else []

    def begin(self, record: LogRecord) -> list[str]:
        """The rule that only names the files of all others has no command, and is no job to a reader."""
        if not record.shellcmd:
            return []
        name = " ".join([record.rule_name, *record.wildcards.values()])
        self.jobs[record.jobid] = Job(name, record.shellcmd, record.created)
        return [f"run: {name} begins"]

    def end(self, record: LogRecord) -> list[str]:
        """The line is printed with the number of jobs that are done, which is the next record."""
        job = self.jobs.pop(record.job_id, None)
        self.failed.pop(record.job_id, None)
        told = f"{job.name} is done, {record.created - job.begun_s:.0f} s" if job else "everything is done"
        self.ended.append(f"run: {told}")
        return []

    def is_told_of_a_job(self, text: str) -> bool:
        """Whether an error only says how a job's command ended, which the job's own line says too."""
        for job in self.jobs.values():
            if job.command in text and "CalledProcessError" in text:
                job.how = text.rpartition("' ")[2].strip().rstrip(".")
                return True
        return False

    def fail(self, record: LogRecord) -> list[str]:
        """Which job, after how long and why, as far as it is known; then the end of its log."""
        job = self.jobs.pop(record.jobid, Job(record.rule_name, "", record.created))
        logs = ", ".join(record.log)
        self.failed[record.jobid] = f"{job.name} (log: {logs})"
        why = "; ".join(part for part in (job.how, record.rule_msg or "") if part)
        what = "was stopped" if self.stopping else "FAILED"
        told = f"run: {job.name} {what} after {record.created - job.begun_s:.0f} s{f' ({why})' if why else ''}"
        return [f"{told}; the end of {logs}:", *(f"    {line}" for path in record.log for line in tail(Path(path)))]


def tail(path: Path) -> list[str]:
    """The last lines of a job's log."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return [f"cannot be read: {error.strerror}"]
    return lines[-TAIL_LINES:] or ["is empty"]
