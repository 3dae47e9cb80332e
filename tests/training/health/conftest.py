"""Toy recipes on made-up scans, and loops around them that a health watcher looks at."""

import pytest

from pipeline.recipe import Recipe
from pipeline.tracking.journal import read_journal
from pipeline.training.budget.synthetic import synthetic
from pipeline.training.health.watch import Health
from pipeline.training.pretraining import make_loop

SIZE = (8, 12, 8)
NETWORK = {"unet": {"widths": [4, 8, 16], "blocks": 1}}
TRAINING = {"steps": 60, "batch": 4, "learning_rate": 0.001, "checkpoint_every": 1000, "journal_every": 10, "evaluate_every": 1000}


@pytest.fixture
def toy():
    """A recipe's mapping at toy size: small crops and network, few steps, all else as it is."""

    def shrunk(mapping, **training):
        crops = {name: {**(values or {}), "size_vox": SIZE} for name, values in mapping.get("crops", {"random": {}}).items()}
        small = {"network": NETWORK, "crops": crops, "training": {**TRAINING, **training}}
        if mapping.get("words"):
            small["words"] = {**mapping["words"], "num_words": 6, "sizes_vox": [SIZE]}
        return {
            "name": "toy",
            "objectives": {"restoration": {"view": "altered"}},
            "views": {"altered": {"corrupt": {}}},
            **mapping,
            **small,
        }

    return shrunk


@pytest.fixture
def make(tmp_path):
    """A recipe's mapping -> a loop with a ``Health`` in a folder of its own; scans are made once, before ranks are forked."""
    made = {}

    def build(mapping, name="run", watchers=None, ranks=None):
        recipe = Recipe.model_validate(mapping)
        words = recipe.words is not None
        data = made[words] = made.get(words) or synthetic(recipe, tmp_path / f"data{int(words)}")
        where, run = type("Where", (), {"store": data.store}), type("Run", (), {"seed": 3})
        watched = [Health()] if watchers is None else watchers
        return make_loop(recipe, run, where, data.train, data.held_out, data.lexicon, tmp_path / name, ranks, watched)

    return build


@pytest.fixture
def alarms():
    """folder -> [(step, name, figure)] of its journal."""
    return lambda loop: [(e["step"], e["name"], e["figure"]) for e in read_journal(loop.folder / "journal.jsonl") if e["kind"] == "alarm"]


@pytest.fixture
def lines():
    """folder -> the metrics of its train lines, by step."""
    return lambda loop: {e["step"]: e["metrics"] for e in read_journal(loop.folder / "journal.jsonl") if e["kind"] == "train"}
