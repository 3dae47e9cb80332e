"""Where the time of a pretraining step goes: read, views, the rest (forward, backward, optimiser).

    .venv/bin/python benchmarks/step.py results/hippocampus [RUN] [--steps 30]

Needs a study whose ``split`` stage (and, for runs with words, ``discover``) is done. Prints medians in milliseconds and the share of
loading and augmentation, which should stay below 10 %. CPU time of the one thread, so that other programs change little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from pipeline.manifest import read_manifest
from pipeline.plan import read_plan
from pipeline.training.pretraining import make_loop, pool


def measure(folder: Path, name: str, steps: int) -> dict[str, float]:
    """Medians in milliseconds over the steps, the first three left out."""
    plan, where = read_plan(folder)
    run = plan.run(name)
    train, held_out = pool(read_manifest(where.manifest), plan.study_value())
    lexicon = pd.read_parquet(where.lexicon(run.lexicon)) if run.lexicon else None
    seconds: dict[str, list[float]] = {"read": [], "views": [], "step": []}
    with tempfile.TemporaryDirectory() as scratch:
        loop = make_loop(plan.recipe_value(run.recipe), run, where, train, held_out, lexicon, Path(scratch))
        for step in range(steps + 3):
            marks = [time.thread_time()]
            region = loop.loader.region(step * loop.loader.batch)
            marks.append(time.thread_time())
            loop.learner.look(region)
            marks.append(time.thread_time())
            loop.step(step, region)
            marks.append(time.thread_time())
            for key, first, last in zip(seconds, marks[:-1], marks[1:], strict=True):
                seconds[key].append(last - first)
    return {key: 1000 * statistics.median(values[3:]) for key, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    plan, where = read_plan(arguments.folder)
    first = {run.recipe: run.run for run in reversed(plan.runs)}
    print(f"torch {torch.__version__}, 1 thread; medians of {arguments.steps} steps, milliseconds")
    print(f"{'recipe':20} {'read':>8} {'views':>8} {'whole step':>11} {'share of read + views':>22}")
    for recipe, name in first.items():
        run = plan.run(name)
        if arguments.run not in (None, name) or (run.lexicon and not where.lexicon(run.lexicon).exists()):
            continue
        found = measure(arguments.folder, name, arguments.steps)
        # ``step`` looks once more itself, so the views are part of it; reading is not.
        share = (found["read"] + found["views"]) / (found["read"] + found["step"])
        print(f"{recipe:20} {found['read']:8.1f} {found['views']:8.1f} {found['read'] + found['step']:11.1f} {share:21.1%}")


if __name__ == "__main__":
    main()
