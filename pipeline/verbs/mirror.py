"""Push a study's journals, figures and encoders to MLflow; what an outage missed is pushed by the next call.

Reads plan.json, runs/*/journal.jsonl, transfers/*/journal.jsonl, verdict.tsv and report.html. Writes the MLflow store: mlflow.db and
mlartifacts/ in the study's folder, or `tracking.uri` of the study, and mirror.json. Files are the truth: a tracking server that is
down changes nothing else.

\b
Examples:
  vesalius mirror results/demo
  vesalius mirror results/demo --follow
  vesalius mirror results/demo --rebuild
  vesalius mirror results/demo --also copies/other-machine/demo
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer


def run(
    folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")],
    follow: Annotated[bool, typer.Option(help="Go on pushing until stopped.")] = False,
    until_pid: Annotated[int | None, typer.Option(help="With --follow: stop when this process has ended.")] = None,
    every: Annotated[float, typer.Option(help="Seconds between pushes.", min=0.5)] = 3.0,
    rebuild: Annotated[bool, typer.Option(help="Make the store anew from the files alone.")] = False,
    also: Annotated[list[Path] | None, typer.Option(help="Copies of the study's folder from other machines.")] = None,
) -> None:
    from pipeline.folder import StudyFolder
    from pipeline.plan import read_plan

    _, where = read_plan(folder)
    others = tuple(StudyFolder(path) for path in also or ())
    if rebuild:
        _clear(folder, where)
    if follow:
        _follow(folder, others, until_pid, every)
    _push(folder, others)


def _push(folder: Path, others: tuple[Any, ...]) -> bool:
    """One push, in turn: `--follow` and a single push at the same moment would both create what is new."""
    from pipeline.plan import read_plan

    plan, where = read_plan(folder)
    with (where.root / ".mirror").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        return _push_now(plan, where, others)


def _push_now(plan: Any, where: Any, others: tuple[Any, ...]) -> bool:
    """A store that cannot be reached is one line, since nothing depends on it."""
    from pipeline.files import write_json
    from pipeline.tracking.mirror import Mirror

    try:
        mirror = Mirror(plan, where, plan.study["tracking"]["uri"])
        points = mirror.push(others)
    except Exception as error:  # MLflow's client raises its own, requests' and SQLAlchemy's errors alike
        typer.echo(
            f"mirror: the MLflow store was not reached ({type(error).__name__}); `vesalius mirror {where.root}` pushes what is missing",
            err=True,
        )
        write_json(where.root / "mirror.json", {"complete": False})
        return False
    write_json(where.root / "mirror.json", {"complete": True, "runs": len(mirror.runs)})
    typer.echo(f"mirror: {points} new points, {len(mirror.runs)} runs")
    return True


def _follow(folder: Path, others: tuple[Any, ...], until_pid: int | None, every: float) -> None:
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.append(number))
    while not stopped and (until_pid is None or _alive(until_pid)):
        _push(folder, others)
        waited = 0.0
        while waited < every and not stopped:
            time.sleep(0.25)
            waited += 0.25


def _clear(folder: Path, where: Any) -> None:
    from pipeline.plan import read_plan
    from pipeline.tracking.mirror import Mirror

    plan, _ = read_plan(folder)
    if plan.study["tracking"]["uri"]:
        Mirror(plan, where, plan.study["tracking"]["uri"]).clear()
        return
    for path in (where.mlflow, where.root / "mlflow.db-wal", where.root / "mlflow.db-shm"):
        path.unlink(missing_ok=True)
    shutil.rmtree(where.root / "mlartifacts", ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
