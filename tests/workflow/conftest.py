"""A tiny study with a stand-in for the command line, run by the real Snakemake."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run_of(name, start=None, lexicon=None):
    return {"run": name, "recipe": name[0], "seed": 0, "start": start, "lexicon": lexicon, "needs": [start] if start else []}


def plan_value(hash_of_c="c1", sizes=(2,), gpus_per_run=1, store_format=1):
    """Restoration r; words w found by r; contrast c that continues r; scratch. ``hash_of_c`` changes when the recipe c is edited."""
    keys = ("sample", "data", "sources", "identity", "channels", "max_refused", "preprocess", "split", "verdict", "tracking")
    built_on = {"scratch": [], "r": ["r-s0-aa"], "w": ["w-s0-bb"], "c": [f"c-s0-{hash_of_c}"]}
    hashes = {"c": hash_of_c}
    return {
        "version": "1",
        "store_format": store_format,
        "inputs": {},
        "shards": ["00", "01"],
        "study": dict.fromkeys(keys) | {"gpus_per_run": gpus_per_run, "finetune": {"num_labels": list(sizes)}, "initialisations": {}},
        "recipes": {name: {"words": {"num_words": 3} if name == "w" else None} for name in "rwc"},
        "tasks": {},
        "runs": [run_of("r-s0-aa"), run_of("w-s0-bb", lexicon="r-s0-words"), run_of(f"c-s0-{hash_of_c}", start="r-s0-aa")],
        "lexicons": [{"lexicon": "r-s0-words", "run": "r-s0-aa", "recipe": "w"}],
        "transfers": [
            {"transfer": f"organ-{name}-{hashes.get(name, 'x')}", "task": "organ", "initialisation": name, "runs": runs, "planned": True}
            for name, runs in built_on.items()
        ],
        "comparisons": [],
    }


@dataclass
class Study:
    """A working directory in which Snakemake runs the study ``tiny``."""

    root: Path

    @property
    def folder(self):
        return self.root / "results" / "tiny"

    def plan(self, **changes):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "plan.json").write_text(json.dumps(plan_value(**changes)))

    def snakemake(self, *arguments, config=(), **environment):
        """(exit code, output, calls of the command line in order)."""
        calls = self.root / "calls.txt"
        calls.write_text("")
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        command += ["--workflow-profile", str(ROOT / "workflow" / "profiles" / "default")]
        command += ["--config", "study=tiny.yaml", "bin=bin", "gpus=0", *config, *arguments]
        home = {**os.environ, "CALLS": str(calls), "HOME": str(self.root), "XDG_CACHE_HOME": str(self.root / "cache"), **environment}
        done = subprocess.run(command, cwd=self.root, env=home, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()


def make_study(root):
    study = Study(root)
    (root / "scans").mkdir()
    for name in ("00-one", "01-two"):
        (root / "scans" / name).write_text(name)
    (root / "tiny.yaml").write_text("name: tiny\nsources: [{path: scans}]\nsplit: {test: 1, validation: 1}\n")
    (root / "bin").mkdir()
    command = root / "bin" / "vesalius"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "fake_vesalius.py"}" "$@"\n')
    command.chmod(0o755)
    study.plan()
    return study


@pytest.fixture
def fresh(tmp_path):
    return make_study(tmp_path)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """A study that ran to its end, with the calls of that run."""
    study = make_study(tmp_path_factory.mktemp("once"))
    code, output, calls = study.snakemake()
    assert code == 0, output
    return study, calls


@pytest.fixture
def finished(once, tmp_path):
    """A copy of the finished study that a test may change."""
    shutil.copytree(once[0].root, tmp_path / "copy", symlinks=True)
    return Study(tmp_path / "copy")
