"""Does a study on a Slurm cluster end as it does on one machine, whatever is done to its jobs? Ends with 0 if every digest is equal.

    .venv/bin/python tests/campaigns/slurm.py --results /tmp/slurm > docs/slurm.txt

Starts a real Slurm of two nodes on this machine (``small_slurm.py``; needs Debian's slurm-wlm and munge, and in the environment
snakemake-executor-plugin-slurm). A tiny study runs to its end without it; then its DAG runs again as Slurm's jobs, and its pretraining
on both nodes by srun, while time limits, signals, deaths and a lost node interrupt it. Compared are the sha256 of encoders and of the
verdict.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from small_slurm import NODES, SmallSlurm, small_slurm, wait_for

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "workflow"))
import test_pipeline as tiny  # noqa: E402

from pipeline.files import digest  # noqa: E402

ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY")
LIMIT = ("--time=2", "--signal=TERM@90")  # Slurm looks every half minute, so the signal comes after 30 to 60 s
PATIENCE_S = 900
OUTAGE_S = 15  # a node that is back within a second finds a controller that has not finished with its loss
SCRIPT = """#!/bin/sh
#SBATCH --nodes=2 --ntasks-per-node=1 --mem=2000 --requeue --open-mode=append --output={log} {options}
export MASTER_ADDR=127.0.0.1  # the nodes' names are no hosts
srun {srun} {python} -m pipeline pretrain {folder} {run}
code=$?
echo "srun ended with $code"
[ $code -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit $code
"""


@dataclass
class Training:
    """A pretraining of two ranks, one on each node, in a copy of the study that has trained nothing yet."""

    slurm: SmallSlurm
    folder: Path
    run: str
    options: tuple[str, ...] = ()
    srun: str = ""

    @property
    def log(self) -> Path:
        return self.folder.parent / "job.log"

    @property
    def encoder(self) -> Path:
        return self.folder / "runs" / self.run / "encoder.safetensors"

    def submit(self) -> str:
        script = self.folder.parent / "job.sh"
        values = {"options": " ".join(self.options), "srun": self.srun, "python": sys.executable, "run": self.run}
        script.write_text(SCRIPT.format(log=self.log, folder=self.folder, **values))
        return self.slurm.submit(script)

    def trains(self) -> bool:
        """Whether there is a checkpoint to come back to."""
        return any((self.folder / "runs" / self.run / "checkpoints").glob("*"))

    def until_it_trains(self) -> None:
        wait_for(self.trains, PATIENCE_S, f"a checkpoint of {self.folder}")

    def until_it_ends(self, job: str) -> dict[str, str]:
        def ended() -> bool:
            self.slurm.hurry()
            return self.slurm.state(job)["JobState"] in ENDED

        wait_for(ended, PATIENCE_S, f"the end of job {job}")
        return dict(self.slurm.state(job))

    def rank(self, number: int) -> int:
        """The process of a rank."""
        found = self.slurm.processes(NODES[number], SLURM_PROCID=str(number))
        return min(process.pid for process in found if "pretrain" in process.cmdline())

    def codes(self) -> str:
        return ", ".join(line.rpartition(" ")[2] for line in self.log.read_text().splitlines() if line.startswith("srun ended"))

    def finished(self, job: str) -> str:
        """What happened to the job, and to others that were submitted until there was an encoder."""
        states = [self.until_it_ends(job)]
        while not self.encoder.exists() and len(states) < 3:
            states.append(self.until_it_ends(self.submit()))
        what = ", called again: ".join(state["JobState"] for state in states)
        codes = [line.rpartition(" ")[2] for line in self.log.read_text().splitlines() if line.startswith("srun ended")]
        return f"{what}; requeued {sum(int(state['Restarts']) for state in states)} times; srun's codes {', '.join(codes) or 'none'}"


def undisturbed(training: Training) -> str:
    return training.finished(training.submit())


def limited(training: Training) -> str:
    training.options = LIMIT
    told = training.finished(training.submit())
    assert "requeued 0" not in told, "it ended before its limit: give it more --steps"
    return told


def one_signalled(training: Training) -> str:
    job = training.submit()
    training.until_it_trains()
    os.kill(training.rank(1), signal.SIGUSR2)
    return training.finished(job)


def strict(training: Training) -> str:
    """srun told to end all tasks when one ends badly, which 75 is to it."""
    training.srun = "--kill-on-bad-exit=1"
    return one_signalled(training)


def rank_killed(training: Training) -> str:
    job = training.submit()
    training.until_it_trains()
    os.kill(training.rank(1), signal.SIGKILL)
    begun = time.monotonic()
    training.until_it_ends(job)
    return f"the job ended after {time.monotonic() - begun:.0f} s; {training.finished(job)}"


def node_lost(training: Training) -> str:
    job = training.submit()
    training.until_it_trains()
    training.slurm.lose_node(NODES[1])
    wait_for(lambda: training.slurm.state(job)["JobState"] == "PENDING", 120, "the requeue of a job whose node is gone")
    time.sleep(OUTAGE_S)
    training.slurm.start_node(NODES[1])
    return training.finished(job)


def cancelled(training: Training) -> str:
    job = training.submit()
    training.until_it_trains()
    training.slurm.ask("scancel", job)
    return training.finished(job)


SCENARIOS: dict[str, Callable[[Training], str]] = {
    "undisturbed": undisturbed,
    "SIGTERM before its time limit": limited,
    "SIGUSR2 to rank 1": one_signalled,
    "the same, --kill-on-bad-exit=1": strict,
    "SIGKILL to rank 1": rank_killed,
    "a node is lost": node_lost,
    "scancel": cancelled,
}


def write_study(root: Path, steps: int) -> None:
    for number in range(8):
        tiny.write_subject(root / "scans", number)
    training = {
        **tiny.RECIPE["training"],
        "steps": steps,
        "checkpoint_every": 100,
        "evaluate_every": 500,
        "journal_every": 50,
        "timeout_s": 60,
    }
    recipes = {"restoration": {**tiny.RECIPE, "training": training}, "transvw": {**tiny.TRANSVW, "training": training}}
    for name, value in {**recipes, "blobs": tiny.TASK, "tiny": tiny.STUDY}.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump(value))


def run_study(root: Path, results: Path, environment: dict[str, str], *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline", "run", str(root / "tiny.yaml"), "--data", str(root / "scans"), "--results", str(results)]
    with (root / f"{results.name}.log").open("ab") as words:
        return subprocess.Popen([*command, *more], cwd=ROOT, env=environment, stdout=words, stderr=words)


def digests(folder: Path) -> dict[str, str]:
    found = [folder / "verdict.tsv", *folder.glob("runs/*/encoder.safetensors")]
    return {str(path.relative_to(folder)): digest(path) for path in sorted(found)}


def prepared(root: Path, steps: int) -> tuple[dict[str, str], str, str]:
    """The digests of the study without Slurm, a pretraining's name, and its encoder's digest on two ranks without Slurm. ``bare`` is
    left as a copy of the study that has trained nothing yet."""
    write_study(root, steps)
    assert run_study(root, root / "local", dict(os.environ)).wait() == 0, f"{root / 'local.log'} says why"
    run = next(path.name for path in (root / "local" / "tiny" / "runs").glob("restoration-*"))
    shutil.copytree(root / "local" / "tiny", root / "bare" / "tiny", ignore=shutil.ignore_patterns("runs", "mlflow.db*", "mlartifacts"))
    two = root / "two" / "tiny"
    shutil.copytree(root / "bare" / "tiny", two)
    command = [sys.executable, "-m", "pipeline", "pretrain", str(two), run, "--ranks", "2"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return digests(root / "local" / "tiny"), run, digest(two / "runs" / run / "encoder.safetensors")


def the_dag(slurm: SmallSlurm, root: Path) -> str:
    """All stages as Slurm's jobs, the pretrainings with a limit that they reach."""
    chosen = ["pretrain:runtime=4", *(f"{rule}:gpu=0" for rule in ("pretrain", "embed", "finetune"))]
    profile = ["--profile", str(ROOT / "workflow" / "profiles" / "slurm"), "--", "--set-resources", *chosen]
    job = run_study(root, root / "cluster", slurm.environment, *profile)
    requeued: set[str] = set()
    while job.poll() is None:
        slurm.hurry()
        for line in slurm.ask("squeue", "-h", "-o", "%i %r").splitlines():
            number = line.split()[0]
            requeued |= {number} if int(slurm.state(number).get("Restarts", 0)) else set()
        time.sleep(2)
    assert job.returncode == 0, f"{root / 'cluster.log'} says why"
    assert requeued, "no pretraining reached its limit: give them more --steps"
    return f"ended with 0; {len(requeued)} of its jobs were requeued"


def compared(name: str, told: str, equal: bool) -> bool:
    print(f"{name:34} {'equal' if equal else 'NOT EQUAL':9} {told}", flush=True)
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--steps", type=int, default=3000, help="of each pretraining; it must take two minutes or more")
    parser.add_argument("--only", nargs="*", choices=["the DAG", *SCENARIOS], default=["the DAG", *SCENARIOS])
    arguments = parser.parse_args()
    root = arguments.results.resolve()
    os.environ |= {"VESALIUS_PRIVATE": str(root / "private"), "OMP_NUM_THREADS": "1"}
    expected, run, reference = prepared(root, arguments.steps)
    version = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=True).stdout.strip()
    print(
        f"{version}, two nodes on one machine; pretrainings of {arguments.steps} steps; two ranks without Slurm: sha256 {reference}",
        flush=True,
    )
    done = []
    with small_slurm(root / "slurm") as slurm:
        if "the DAG" in arguments.only:
            told = the_dag(slurm, root)
            done.append(compared("the DAG", told, digests(root / "cluster" / "tiny") == expected))
        for number, (name, scenario) in enumerate(SCENARIOS.items()):
            if name in arguments.only:
                training = Training(slurm, root / f"srun{number}" / "tiny", run)
                shutil.copytree(root / "bare" / "tiny", training.folder)
                told = scenario(training)
                done.append(compared(name, told, digest(training.encoder) == reference))
    print(f"{sum(done)} of {len(done)} ended with the same sha256")
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
