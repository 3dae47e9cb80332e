"""Loops to measure: of a recipe on made-up scans, or on a study's store, in a folder that is thrown away."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from pipeline.manifest import read_manifest
from pipeline.plan import read_plan
from pipeline.recipe import Recipe
from pipeline.training.budget.forecast import run_cpu_s, run_s
from pipeline.training.budget.measure import WARM, Measured, fitted, measure, shortened
from pipeline.training.budget.synthetic import Synthetic, synthetic
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.health.watch import Health
from pipeline.training.loop import Loop
from pipeline.training.pretraining import make_loop, pool


def tried(recipe: Recipe, study: Path | None, steps: int, scratch: Path, ranks: Ranks) -> tuple[Measured | None, Recipe]:
    """Measures ``steps`` steps; the recipe comes back with the micro-batch that fits, if its own does not. None on ranks that do not
    lead; each has scans of its own in its own ``scratch``."""
    data, short = scans(recipe, study, scratch), shortened(recipe.training, WARM + steps)
    loop = loop_of(recipe.model_copy(update={"training": short}), data, scratch / "measured", ranks)
    found = fitted(loop)
    if ranks.world == 1 and found.micro_batch < (recipe.training.micro_batch or recipe.training.batch):
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"micro_batch": found.micro_batch})})
        short = shortened(recipe.training, WARM + steps)
        loop = loop_of(recipe.model_copy(update={"training": short}), data, scratch / "measured", ranks)
    return measure(loop, steps, found), recipe


def checked(
    recipe: Recipe, study: Path | None, steps: int, measured: Measured | None, scratch: Path, ranks: Ranks
) -> dict[str, float] | None:
    """A real run of ``steps`` steps with evaluations and checkpoints on the way, beside its forecast; by the clock and in CPU time."""
    training = shortened(recipe.training, steps, every=max(1, steps // 2))
    loop = loop_of(recipe.model_copy(update={"training": training}), scans(recipe, study, scratch), scratch / "checked", ranks)
    wall, cpu = time.perf_counter(), time.process_time()
    loop.run({"run": "check"})
    real, real_cpu = time.perf_counter() - wall, time.process_time() - cpu
    if measured is None:
        return None
    expected, expected_cpu = run_s(measured, training), run_cpu_s(measured, training)
    return {
        "steps": steps, "real_s": real, "forecast_s": expected, "error": expected / real - 1,
        "real_cpu_s": real_cpu, "forecast_cpu_s": expected_cpu, "error_cpu": expected_cpu / real_cpu - 1,
    }  # fmt: skip


def scans(recipe: Recipe, study: Path | None, scratch: Path) -> Synthetic:
    """Made up, or those of a study, with the lexicon of its run of the same name if that has been made."""
    if study is None:
        return synthetic(recipe, scratch / "data")
    plan, where = read_plan(study)
    train, held_out = pool(read_manifest(where.manifest), plan.study_value())
    lexicons = [run.lexicon for run in plan.runs if run.recipe == recipe.name and run.lexicon]
    if recipe.words and not (lexicons and where.lexicon(lexicons[0]).exists()):
        raise ValueError(f"{study}: holds no lexicon for {recipe.name}; run `vesalius discover` first, or leave --study out")
    lexicon = pd.read_parquet(where.lexicon(lexicons[0])) if recipe.words else None
    return Synthetic(where.store, train, held_out, lexicon)


def loop_of(recipe: Recipe, data: Synthetic, folder: Path, ranks: Ranks | None = None) -> Loop:
    """With the watcher of every pretraining, whose time is part of a step."""
    where, run = SimpleNamespace(store=data.store), SimpleNamespace(seed=0)
    return make_loop(recipe, run, where, data.train, data.held_out, data.lexicon, folder, ranks, [Health()])
