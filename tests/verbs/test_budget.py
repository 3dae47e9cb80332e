"""`vesalius budget`: a recipe alone on made-up scans, and a study's store."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.configuration import read_config
from pipeline.folder import StudyFolder
from pipeline.manifest import write_manifest
from pipeline.recipe import Recipe
from pipeline.study import Study
from pipeline.training.budget import trial
from pipeline.training.budget.synthetic import synthetic
from pipeline.training.budget.trial import loop_of

RECIPE = """
network: {unet: {widths: [4, 8], blocks: 1}}
crops: {random: {size_vox: [8, 8, 8]}}
views: {altered: {corrupt: {elastic: 1.0}}}
objectives: {restoration: {view: altered}}
training: {steps: 5000, batch: 4, checkpoint_every: 1000}
"""
RECIPES = sorted((Path(__file__).resolve().parents[2] / "configs" / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def called(*arguments):
    result = CliRunner().invoke(app, ["budget", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_recipe_alone_is_measured_and_forecast(recipe):
    found = json.loads(called(recipe, "--steps", 12, "--check", "--json"))  # enough that not all is read ahead of them
    measured, forecast = found["measured"], found["forecast"]
    assert "all-reduce" not in measured["stages"], "one process cannot say"
    inside = sum(value for stage, value in measured["stages"].items() if stage not in ("read", "decode"))
    assert inside == pytest.approx(measured["step_s"], rel=0.02), "the stages are the whole step"
    assert all(measured["stages"][stage] > 0 for stage in ("views", "forward", "losses", "backward", "update", "decode"))
    assert measured["flop"] > 3e6
    assert forecast["steps"] == 5000
    assert forecast["hours"]["1"] * 3600 > 5000 * measured["step_s"]
    assert (measured["fit"]["micro_batch"], measured["fit"]["accumulation"]) == (4, 1)
    assert found["check"]["steps"] == 24
    assert found["check"]["real_cpu_s"] > 0


def test_two_ranks_measure_what_they_wait_for_each_others_gradients(recipe):
    command = [sys.executable, "-m", "pipeline", "budget", str(recipe), "--steps", "4", "--ranks", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["measured"]  # one object, of rank 0
    assert (measured["ranks"], measured["batch"]) == (2, 4)
    assert measured["stages"]["all-reduce"] > 0
    inside = sum(value for stage, value in measured["stages"].items() if stage not in ("read", "decode"))
    assert inside == pytest.approx(measured["step_s"], rel=0.05)
    assert (measured["fit"]["micro_batch"], measured["fit"]["how"]) == (2, "the recipe's own, on each rank")
    odd = CliRunner().invoke(app, ["budget", str(recipe), "--ranks", "3"])
    assert odd.exit_code != 0
    assert "training.batch: 4 crops a step cannot be shared evenly by 3 ranks" in str(odd.exception or odd.output)


def test_what_people_read_names_every_stage_and_what_to_ask_slurm_for(recipe):
    text = called(recipe, "--steps", 2)
    for word in ("views", "forward", "backward", "all-reduce", "update", "decode", "share of peak", "micro-batch", "on 4 such", "#SBATCH"):
        assert word in text, word
    assert "Check:" not in text
    assert "all-reduce   one process: not measured (--ranks)" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_scans_can_be_made_up_for_every_recipe(path, tmp_path):
    recipe = read_config(path, Recipe)
    data = synthetic(recipe, tmp_path, num_scans=3)
    loop = loop_of(recipe, data, tmp_path / "run")
    batch = loop.loader.region(0)
    assert len(batch.ids.sample) == recipe.training.batch
    assert (data.lexicon is not None) == (recipe.words is not None)
    assert batch.voxels.float().std() > 0
    assert len(data.held_out) == 2


@pytest.mark.parametrize("name", ["models_genesis", "transvw"])
def test_a_studys_store_is_read_and_a_missing_lexicon_is_refused_with_the_remedy(name, tmp_path, monkeypatch):
    recipe = read_config(next(path for path in RECIPES if path.stem == name), Recipe)
    data, where = synthetic(recipe, tmp_path), StudyFolder(tmp_path)
    columns = {"twin_of": "", "origin": "made here", "licence": "none", "digest": "d"}
    write_manifest(pd.concat([data.train, data.held_out]).assign(**columns), where.manifest)
    study = Study.model_validate({"name": "tiny", "sources": [{"path": "x"}], "split": {"test": 1, "validation": 1}})
    run = SimpleNamespace(recipe=name, lexicon="words" if recipe.words else None)
    monkeypatch.setattr(trial, "read_plan", lambda folder: (SimpleNamespace(runs=(run,), study_value=lambda: study), where))
    if recipe.words:
        with pytest.raises(ValueError, match="no lexicon for transvw; run `vesalius discover`"):
            trial.scans(recipe, tmp_path, tmp_path / "scratch")
        where.lexicon("words").parent.mkdir()
        data.lexicon.to_parquet(where.lexicon("words"))
    found = trial.scans(recipe, tmp_path, tmp_path / "scratch")
    assert (len(found.train), len(found.held_out)) == (6, 2)
    assert loop_of(recipe, found, tmp_path / "run").loader.region(0).voxels.float().std() > 0
