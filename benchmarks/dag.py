"""What the workflow itself costs beside the work: process start and imports of each job, Snakemake, and the mirror.

    .venv/bin/python benchmarks/dag.py results/hippocampus

Needs a finished study. The start of a job is measured by calling its verb once more for a finished run or transfer, which then ends at
once; the mirror by one push of nothing. Prints seconds, shares of all jobs' seconds, and the share of embedding and discovery together.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from pipeline.plan import read_plan
from pipeline.tracking.costs import stage_costs


def seconds_of(*arguments: str) -> float:
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipeline", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    plan, where = read_plan(arguments.folder)
    costs = {cost.stage: cost for cost in stage_costs(where.benchmarks)}
    whole = sum(cost.seconds for cost in costs.values())
    jobs = sum(cost.jobs for cost in costs.values())
    folder = str(arguments.folder)
    start = max(
        seconds_of("pretrain", folder, plan.runs[0].run),
        seconds_of("finetune", folder, plan.transfers[0].transfer),
        seconds_of("verify", folder),
    )
    push = seconds_of("mirror", folder)
    words = sum(costs[stage].seconds for stage in ("embed", "discover", "lexicon") if stage in costs)
    print(f"{folder}: {jobs} jobs, {whole:.0f} s of jobs")
    print(f"start of a job that finds all done: {start:.1f} s; all jobs: {jobs * start / whole:.1%}")
    print(f"one push of the mirror: {push:.1f} s")
    print(f"embedding and discovery: {words:.0f} s, {words / whole:.1%}")


if __name__ == "__main__":
    main()
