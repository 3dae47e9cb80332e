"""Resuming: the four bars of huggingface/accelerate#4203, epochs, other worlds, other recipes, several calls at once."""

import json
import os
import re

import numpy as np
import pytest
import torch
import toy

from pipeline.files import digest_of
from pipeline.training.checkpoints import made
from pipeline.training.injection import Fault

EPOCH = 3  # steps: 10 scans, 4 crops a step


class Stream:
    """Writes down what each step is made of: numbers, scans and voxels of its samples, and a draw of the torch generator."""

    def __init__(self, loop, folder):
        self.path, self.own = folder / f"stream{loop.ranks.rank}.jsonl", loop.step
        loop.step = self.step

    def step(self, step, region):
        np.random.seed(os.getpid() % 1000)  # other code that uses random numbers, in an order of its own
        torch.rand(step % 3 + 1)
        np.random.random(step % 5 + 1)
        outcome = self.own(step, region)
        line = [step, region.ids.sample.tolist(), region.ids.scan.tolist(), digest_of(region.voxels.tolist()), torch.rand(1).item()]
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        return outcome


def streamed(stored, folder, world, faults=(), **changes):
    """Exit codes, and what each rank saw, a line a step; of a step seen twice the last."""
    folder.mkdir(exist_ok=True)

    def work(ranks):
        loop = toy.make_loop(stored, folder, ranks, faults, **changes)
        Stream(loop, folder)
        loop.run(toy.WHO)

    codes = toy.ranks_in_forks(work, world, folder / "said.txt")
    found = []
    for rank in range(world):
        lines = [json.loads(line) for line in (folder / f"stream{rank}.jsonl").read_text().splitlines()]
        found.append({line[0]: line[1:] for line in lines})
    return codes, found


BARS = {"in the middle of epoch 0": 2, "in the middle of epoch 4": 4 * EPOCH + 1, "at the end of an epoch": 5 * EPOCH}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("bar", BARS)
def test_the_stream_of_a_resumed_run_is_that_of_an_uninterrupted_one(stored, tmp_path, bar, world):
    _, expected = streamed(stored, tmp_path / "whole", world)
    fault = Fault("usr2", "step", BARS[bar] - 1, world - 1)
    codes, before = streamed(stored, tmp_path / "resumed", world, [fault])
    assert codes == [75] * world
    assert max(before[0]) == BARS[bar] - 1
    codes, after = streamed(stored, tmp_path / "resumed", world)
    assert codes == [0] * world, toy.said(tmp_path / "resumed")
    assert after == expected
    assert toy.final(tmp_path / "resumed") == toy.final(tmp_path / "whole")


def test_two_ranks_see_the_samples_of_one(stored, tmp_path):
    _, (one,) = streamed(stored, tmp_path / "one", 1)
    _, (first, second) = streamed(stored, tmp_path / "two", 2)
    for step, (samples, scans, _, _) in one.items():
        assert first[step][0] + second[step][0] == samples
        assert first[step][1] + second[step][1] == scans


def test_an_epoch_begins_once_each_on_every_rank_also_where_a_run_resumes_at_its_first_step(stored, tmp_path):
    for name, step in (("whole", None), ("boundary", 2 * EPOCH), ("just after", 2 * EPOCH + 1)):
        folder = tmp_path / name
        if step:
            assert -9 in toy.train(stored, folder, 2, [Fault("kill", "loss", step, 1)], checkpoint_every=EPOCH)
        assert toy.train(stored, folder, 2, checkpoint_every=EPOCH) == [0, 0]
        path = folder / "checkpoints" / "step_00000024" / "tensors.safetensors"
        assert toy.read_tensors(path)["learner.epochs"].tolist() == [1] * 8 + [0] * 56
    assert toy.final(tmp_path / "whole") == toy.final(tmp_path / "boundary") == toy.final(tmp_path / "just after")


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_ranks_goes_on_with_the_same_samples_and_the_journal_says_what_is_not_promised(stored, tmp_path, before, after):
    _, one = streamed(stored, tmp_path / "one", 1, batch_norm=False)
    codes, _ = streamed(stored, tmp_path / "other", before, [Fault("term", "step", 11, 0)], batch_norm=False)
    assert codes == [75] * before
    for stream in (tmp_path / "other").glob("stream*"):
        stream.unlink()
    codes, seen = streamed(stored, tmp_path / "other", after, batch_norm=False)
    assert codes == [0] * after, toy.said(tmp_path / "other")
    for step in range(12, 24):
        assert [sample for rank in seen for sample in rank[step][0]] == one[0][step][0]
    (note,) = toy.notes(tmp_path / "other")
    assert note["text"] == (
        f"continued with number of ranks {before} -> {after}: every step has the same samples, sums may be taken in another order, so "
        "weights agree to rounding, not bit for bit"
    )
    weights = [toy.read_tensors(tmp_path / name / "checkpoints" / "step_00000024" / "tensors.safetensors") for name in ("one", "other")]
    assert torch.equal(weights[0]["learner.epochs"], weights[1]["learner.epochs"])


@pytest.mark.parametrize(
    ("who", "changes", "words"),
    [
        ({"recipe_digest": "other"}, {}, "another recipe (r, now other)"),
        ({"manifest_digest": "other"}, {}, "another manifest (m, now other)"),
        ({"seed": 4}, {}, "another seed (3, now 4)"),
        ({}, {"steps": 30}, "another training.steps (24, now 30)"),
        ({}, {"batch": 2}, "another training.batch (4, now 2)"),
    ],
)
@pytest.mark.parametrize("world", [1, 2])
def test_another_recipe_or_other_data_is_refused_on_all_ranks_with_the_reason(stored, tmp_path, who, changes, words, world):
    assert toy.train(stored, tmp_path, world, [Fault("term", "step", 6, 0)]) == [75] * world

    def work(ranks):
        toy.make_loop(stored, tmp_path, ranks, **changes).run({**toy.WHO, **who})

    assert toy.ranks_in_forks(work, world, tmp_path / "said.txt") == [1] * world
    said = toy.said(tmp_path)
    assert said.count(words) >= world
    assert "remove" in said
    assert toy.checkpoints(tmp_path)[-1] == "step_00000007"


def test_another_code_goes_on_and_the_journal_says_so(stored, resumes, tmp_path, monkeypatch):
    monkeypatch.setattr(made, "code_digest", lambda: "000000000000")
    assert toy.train(stored, tmp_path, 1, [Fault("term", "step", 6)]) == [75]
    monkeypatch.undo()
    assert toy.train(stored, tmp_path) == [0]
    (note,) = toy.notes(tmp_path)
    assert re.fullmatch(r"continued with code 000000000000 -> [0-9a-f]{12}: sums may be taken .* not bit for bit", note["text"])


def test_all_that_a_run_depends_on_lies_in_its_checkpoint(stored, tmp_path):
    loop = toy.make_loop(stored, tmp_path, toy.Ranks(device=torch.device("cpu")))
    loop.run(toy.WHO)
    loaded = loop.checkpoints.load()
    learner = {name.removeprefix("learner."): value for name, value in loaded.tensors.items() if name.startswith("learner.")}
    assert all(torch.equal(value, learner[name]) for name, value in loop.learner.state_dict().items())
    assert len(learner) == len(loop.learner.state_dict())
    assert {name for name in loaded.tensors if name.startswith("optimiser.")} == set(toy.optimiser_tensors(loop.optimiser))
    assert loaded.state["metrics"] == loop.metrics
    assert set(loaded.state["best"]) == {"step", "loss"}
    evaluated = {e["step"]: e["metrics"]["loss"] for e in toy.entries(tmp_path) if e["kind"] == "evaluate"}
    assert loaded.state["best"] == {"step": min(evaluated, key=evaluated.get), "loss": min(evaluated.values())}
    assert loaded.made["code"] == made.code_digest()
    assert loaded.made["world"] == 1
