"""A watcher changes nothing of a run, and what it knows survives a resume."""

import json
from dataclasses import replace

import pytest
import torch

from pipeline.training.health import watch
from pipeline.training.health.gradients import pulls
from pipeline.training.micro import part

BOTH = {
    "views": {"altered": {"corrupt": {}}, "pair": {"augment": {}}},
    "objectives": {"restoration": {"view": "altered"}, "moco": {"view": "pair", "weight": 0.1}, "masked_restoration": {"view": "altered"}},
}


@pytest.fixture
def often(monkeypatch):
    """Gradients of objectives are looked at often enough to matter."""
    monkeypatch.setattr(watch, "GRADIENTS_EVERY", 4)


def test_the_weights_are_those_of_a_run_without_watchers(toy, make, often):
    with_watcher, without = make(toy(BOTH, steps=13), "a"), make(toy(BOTH, steps=13), "b", watchers=[])
    assert with_watcher.run({"run": "a"}) == without.run({"run": "b"})
    own, other = with_watcher.learner.state_dict(), without.learner.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in own.items())
    states = [loop.optimiser.state_dict()["state"] for loop in (with_watcher, without)]
    assert states[0]
    assert all(torch.equal(value, states[1][i][name]) for i, entry in states[0].items() for name, value in entry.items())


def entries(loop):
    lines = [json.loads(line) for line in (loop.folder / "journal.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("time") and key != "run"} for line in lines]


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [9, 15])
def test_a_resumed_run_writes_the_journal_of_an_uninterrupted_one(at, toy, make, often, monkeypatch):
    monkeypatch.setattr(watch, "CODES_EVERY", 3)
    monkeypatch.setattr("pipeline.objectives.moco.Moco.health", codes, raising=False)
    recipe = toy(BOTH, steps=20, checkpoint_every=4, journal_every=5, learning_rate=0.01)
    whole, broken = make(recipe, "whole"), make(recipe, "broken")
    whole.run({"run": "whole"})
    step = broken.step

    def killed(number, region):
        if number == at:
            raise Killed
        return step(number, region)

    broken.step = killed
    with pytest.raises(Killed):
        broken.run({"run": "broken"})
    again = make(recipe, "broken")
    again.run({"run": "broken"})
    assert entries(again) == entries(whole)
    named = {name for entry in entries(whole) for name in entry.get("metrics", {})}
    assert {"health/moco/prototypes_used", "health/moco/gradient", "health/gradient_rise"} <= named
    assert any(name.endswith("/conflict") for name in named)
    first, second = whole.watchers[0], again.watchers[0]
    assert first.state() == second.state()
    assert first.tensors().keys() == second.tensors().keys()
    for name, ring in first.tensors().items():
        assert torch.equal(ring, second.tensors()[name]), name
    first.load_tensors({})
    first.load_state({})
    assert (first.tensors(), first.state()) == (watch.Health().tensors(), watch.Health().state()), "a run may go back to its start"


def codes(self, step):
    """Codes of the projector's outputs, as an objective with prototypes would have them."""
    chosen = torch.softmax(self.projector(step.student["pair"][0].pooled)[:, :16] / 0.1, 1)
    return {"teacher_codes": chosen, "student_codes": chosen}


def test_pulls_are_the_gradients_of_each_objective_on_the_encoder(toy, make):
    recipe = toy(BOTH, steps=2)
    loop = make(recipe)
    loop.run({"run": "two"})
    seen = []
    loop.watchers = ()
    backward = loop.learner.backward

    def kept(region, **when):
        found = backward(region, **when)
        seen.append(found[1])
        return found

    loop.learner.backward = kept
    loop.step(2, loop.loader.region(8))
    step = part(seen[0], slice(0, None, 2))
    found = pulls(loop.learner, seen[0])
    loop.learner.eval()
    gradients = {}
    for name in loop.learner.objectives:
        features = {view: tuple(loop.learner.network(b.voxels, b.hidden, b.hide, loop.learner.wants["student"][view]) for b in batches)
                    for view, batches in step.views.items()}  # fmt: skip
        loop.learner.zero_grad()
        (loop.learner.weights[name] * loop.learner.objectives[name](replace(step, student=features)).value).backward()
        gradients[name] = torch.cat([p.grad.ravel() for p in loop.learner.network.encoder.parameters()])
        assert float(found[f"{name}/gradient"]) == pytest.approx(float(gradients[name].norm()), rel=1e-5)
    for a, b in (("restoration", "moco"), ("restoration", "masked_restoration"), ("moco", "masked_restoration")):
        cosine = torch.nn.functional.cosine_similarity(gradients[a], gradients[b], dim=0)
        key = f"{a}/{b}/conflict" if f"{a}/{b}/conflict" in found else f"{b}/{a}/conflict"
        assert float(found[key]) == pytest.approx(float(cosine), abs=1e-5)
    assert loop.learner.training is False
