"""Does a study that is killed again and again end as one that was not? Ends with 0 if every digest is equal.

    .venv/bin/python tests/campaigns/kills.py configs/studies/demo.yaml --kills 5 --results /tmp/kills > docs/kills.txt

Runs the study twice into folders of its own: once without interruption, once killed with SIGKILL (Snakemake and every job, at once)
at random moments of that time and started again. Compares the sha256 of verdict.tsv and of every encoder.safetensors. Takes
about two and a half times as long as the study; what the study's cohort has made is used by both runs.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from pipeline.files import digest

ROOT = Path(__file__).resolve().parents[2]
GRACE_S = 3.0  # so that a run has begun before it may be killed


def digests(folder: Path) -> dict[str, str]:
    found = [*folder.glob("*/verdict.tsv"), *folder.glob("*/runs/*/encoder.safetensors")]
    return {str(path.relative_to(folder)): digest(path) for path in sorted(found)}


def start(study: Path, results: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline", "run", str(study), "--results", str(results)]
    with log.open("ab") as words:
        return subprocess.Popen(command, cwd=ROOT, stdout=words, stderr=words)


def kill_all(job: subprocess.Popen[bytes]) -> list[str]:
    """SIGKILL to the run and all that it started; what was at work, by verb."""
    processes = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    working = sorted({line[2] for line in map(_line, processes) if len(line) > 2 and line[1].endswith("vesalius")} - {"mirror"})
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    job.wait()
    return working


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--results", type=Path, required=True, help="A folder that does not exist yet, for both runs.")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True)
    whole, killed, log = (arguments.results / name for name in ("whole", "killed", "log.txt"))
    begun = time.monotonic()
    if start(arguments.study, whole, log).wait():
        print(f"the uninterrupted run failed; see {log.name}")
        return 2
    seconds = time.monotonic() - begun
    print(f"{arguments.study}: uninterrupted run {seconds:.0f} s, {len(digests(whole))} digests", flush=True)
    draw = random.Random(arguments.seed)
    share = seconds / (arguments.kills + 1)
    for number in range(arguments.kills):
        job = start(arguments.study, killed, log)
        wait = GRACE_S + draw.uniform(0, 2 * share)
        try:
            job.wait(timeout=wait)
            print(f"kill {number + 1}: the run had ended before {wait:.1f} s")
            continue
        except subprocess.TimeoutExpired:
            print(f"kill {number + 1}: after {wait:.1f} s, at work: {', '.join(kill_all(job)) or 'snakemake'}", flush=True)
    if start(arguments.study, killed, log).wait():
        print(f"the run after the last kill failed; see {log.name}")
        return 1
    expected, found = digests(whole), digests(killed)
    for name in sorted(expected.keys() | found.keys()):
        equal = expected.get(name) == found.get(name)
        print(f"{'equal' if equal else 'DIFFERS'}  {expected.get(name, '-')[:16]}  {name}")
    print(f"{sum(expected[name] == found.get(name) for name in expected)} of {len(expected)} digests equal after {arguments.kills} kills")
    return int(expected != found)


if __name__ == "__main__":
    sys.exit(main())
