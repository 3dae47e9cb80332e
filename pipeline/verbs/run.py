"""Run a study from its scans to its report; killed or stopped at any moment, the same command continues.

Plans the study, ends what a killed run of it left behind, and calls Snakemake. Of it are shown a line where a job begins and ends, and the
end of the log of a job that failed; all that it says is in its own log, whose path is told. At the end come the seconds of each stage, the
verdict, the report's path and the command that opens the dashboard. Arguments after -- go to Snakemake.

\b
Examples:
  vesalius run configs/studies/demo.yaml
  vesalius run configs/studies/hippocampus.yaml --data scans --cores 2
  vesalius run configs/studies/demo.yaml --profile workflow/profiles/slurm
  vesalius run configs/studies/demo.yaml -- --dry-run
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "VESALIUS_RUN"
PATIENCE_S = 60
LOGGER = ROOT / "workflow" / "logger"  # holds what shows Snakemake's jobs, a line each
LOOKS = {"-n", "--dry-run", "--dryrun", "--lint"}  # with these, what Snakemake says is what was asked for


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML, such as configs/studies/demo.yaml.")],
    extra: Annotated[list[str] | None, typer.Argument(metavar="-- SNAKEMAKE ARGUMENTS", help="Passed on as they are.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder that {data} stands for; default: the study's own.")] = None,
    results: Annotated[Path, typer.Option(help="Folder that holds the folders of all studies.")] = Path("results"),
    cores: Annotated[str, typer.Option(help="CPU cores to use at once, or all.")] = "all",
    profile: Annotated[Path, typer.Option(help="Snakemake profile.")] = ROOT / "workflow" / "profiles" / "default",
) -> None:
    from pipeline.configuration import read_yaml

    if not profile.is_dir():
        raise ValueError(f"--profile: there is no folder {profile}; name one that holds a config.yaml, such as workflow/profiles/slurm")
    if cores != "all" and not (cores.isdecimal() and int(cores)):
        raise ValueError(f"--cores: {cores!r} is neither a number of cores nor `all`")
    begun = time.monotonic()
    where = results / str(read_yaml(study).get("name", study.stem.replace("-", "_")))
    chosen = ["--data", data] if data is not None else []
    _must([sys.executable, "-m", "pipeline", "plan", str(study), "--results", str(results), "--refresh", *chosen])
    settings = [f"study={study}", f"results={results}", *([f"data={data}"] if data is not None else [])]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--workflow-profile", str(profile)]
    looks = bool(LOOKS & set(extra or []))
    command += ["--cores", cores, "--nolock", "--rerun-incomplete", *([] if looks else ["--logger", "vesalius"])]
    command += ["--config", *settings, *(extra or [])]
    found = os.pathsep.join(filter(None, [str(LOGGER), os.environ.get("PYTHONPATH")]))
    with _owning(where) as token:
        code = _supervise(command, {**os.environ, TOKEN: token, "PYTHONPATH": found})
    if code:
        typer.echo(f"vesalius: the study is not finished; logs are in {where / 'logs'}, and the same command continues", err=True)
        raise typer.Exit(code)
    if not looks:
        _summary(where, time.monotonic() - begun)


def _must(command: list[str]) -> None:
    """Runs a command that explains itself when it fails."""
    code = subprocess.run(command, check=False).returncode
    if code:
        raise typer.Exit(code)


@contextmanager
def _owning(where: Path) -> Iterator[str]:
    """This process owns the study's run. Children carry a token, so that a successor finds what outlived a killed owner."""
    import psutil

    from pipeline.files import read_json, write_json

    path = where / "owner.json"
    if path.exists():
        owner = read_json(path)
        if _alive(owner["pid"], owner["started"]):
            raise ValueError(f"{where}: process {owner['pid']} is running this study; wait for it or end it")
        _end_leftovers(owner["token"])
    token = secrets.token_hex(8)
    write_json(path, {"pid": os.getpid(), "started": psutil.Process().create_time(), "token": token})
    try:
        yield token
    finally:
        path.unlink(missing_ok=True)


def _alive(pid: int, started: float) -> bool:
    import psutil

    try:
        return abs(psutil.Process(pid).create_time() - started) < 1
    except psutil.NoSuchProcess:
        return False


def _end_leftovers(token: str) -> None:
    """Ends the processes of a killed run, oldest first; a training among them writes a checkpoint before it goes."""
    import psutil

    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN) == token and process.name() not in ("bash", "sh", "tee"):
                left.append((process.create_time(), process))
        except (psutil.Error, OSError):
            continue
    ended = [process for _, process in sorted(left, key=lambda item: item[0])]
    for process in ended:
        _signal(process, signal.SIGTERM)
    if ended:
        typer.echo(f"run: ending {len(ended)} processes that a killed run left behind", err=True)
    for process in psutil.wait_procs(ended, timeout=PATIENCE_S)[1]:
        _signal(process, signal.SIGKILL)


def _signal(process: Any, number: int) -> None:
    import psutil

    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _supervise(command: list[str], environment: dict[str, str]) -> int:
    """Runs Snakemake in a process group of its own; Ctrl-C and SIGTERM reach all of it, once, as an interrupt.

    A shell starts background jobs with interrupts ignored, and children inherit that: it is undone, or nothing could stop them.
    """
    child = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=_heed_interrupts)

    def forward(number: int, frame: FrameType | None) -> None:
        try:
            os.killpg(child.pid, signal.SIGINT)
        except ProcessLookupError:
            return

    old = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return child.wait()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _summary(where: Path, seconds: float) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from pipeline.files import read_json
    from pipeline.tracking.costs import stage_costs
    from pipeline.verbs.verdict import show_verdict

    console = Console(width=140, highlight=False)
    stages = Table("stage", "jobs", "seconds", "peak memory", title="Stages", title_justify="left", box=SIMPLE)
    for cost in stage_costs(where / "benchmarks"):
        stages.add_row(cost.stage, str(cost.jobs), f"{cost.seconds:.1f}", f"{cost.peak_mib:.0f} MiB")
    console.print(stages)
    if (where / "verdict.tsv").exists():
        show_verdict(where)
    console.print(f"this call took {seconds:.0f} s")
    if (where / "report.html").exists():
        console.print(f"report:     {where / 'report.html'}", soft_wrap=True)
    uri = read_json(where / "plan.json")["study"]["tracking"]["uri"]
    console.print(f"dashboard:  {uri or dashboard(where)}", soft_wrap=True)


def dashboard(where: Path) -> str:
    """The command that opens MLflow's page on a study's store."""
    server = Path(sys.executable).parent / "mlflow"
    shown = server.relative_to(Path.cwd()) if server.is_relative_to(Path.cwd()) else server
    return f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {shown} server --backend-store-uri sqlite:///{where / 'mlflow.db'} --host 127.0.0.1"
