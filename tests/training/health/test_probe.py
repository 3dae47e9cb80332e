"""The probe as a watcher: the encoder that it prefers stays beside the last one, after pruning, kills and resumes."""

import json
import os

import pytest
import torch

from pipeline.training.checkpoints.weights import read_tensors
from pipeline.training.encoder import save_encoder
from pipeline.training.health import probe as probing
from pipeline.training.health.probe import Probe

SCORES = {5: 0.3, 10: 0.7, 15: 0.6, 20: 0.7, 24: 0.1}


@pytest.fixture
def probed(toy, make, tmp_path):
    """name -> a loop whose probe prefers the encoder of step 10."""

    def build(name="run"):
        calls = []

        def score(network):
            calls.append(torch.cat([p.ravel() for p in network.parameters()]).sum())
            assert not network.training
            assert not torch.is_grad_enabled()
            return SCORES[loop.begun + 5 * len(calls)] if loop.begun + 5 * len(calls) in SCORES else SCORES[24]

        def keep(folder, network, step, value):
            save_encoder(folder, network, {"step": step, "score": value})

        watcher = Probe(score, keep, tmp_path / name)
        loop = make(toy({}, steps=24, batch=2, checkpoint_every=4, journal_every=6, probe_every=5), name, watchers=[watcher])
        loop.begun = 0
        return loop

    return build


def best(folder):
    return json.loads((folder / "best" / "encoder.json").read_text())


def test_the_preferred_encoder_is_kept_and_the_journal_says_so(probed, lines):
    loop = probed()
    at_ten, step = {}, loop.step

    def noting(number, region):
        if number == 10:
            at_ten.update({name: value.clone() for name, value in loop.learner.network.state_dict().items()})
        return step(number, region)

    loop.step = noting
    loop.run({"run": "probed"})
    assert (best(loop.folder)["step"], best(loop.folder)["score"]) == (10, 0.7)
    kept = read_tensors(loop.folder / "best" / "model.safetensors")
    assert all(torch.equal(value, at_ten[name]) for name, value in kept.items())
    last = loop.learner.network.state_dict()
    assert any(not torch.equal(value, last[name]) for name, value in kept.items())
    assert sorted(path.name for path in loop.folder.glob("best*")) == ["best"]
    probes = {step: {k: v for k, v in metrics.items() if "probe" in k} for step, metrics in lines(loop).items()}
    assert probes[6] == {"health/probe": 0.3, "health/probe_best": 0.3, "health/probe_best_step": 5.0}
    assert probes[24] == {"health/probe": 0.1, "health/probe_best": 0.7, "health/probe_best_step": 10.0}


def test_the_preferred_encoder_survives_a_kill_and_a_resume(probed):
    loop, step = probed(), None
    step = loop.step

    def killed(number, region):
        if number == 17:
            raise KeyboardInterrupt
        return step(number, region)

    loop.step = killed
    with pytest.raises(KeyboardInterrupt):
        loop.run({"run": "killed"})
    again = probed()
    again.begun = 15  # continues from step 16
    again.run({"run": "killed"})
    assert best(again.folder)["step"] == 10
    whole = probed("whole")
    whole.run({"run": "whole"})
    assert (again.folder / "best" / "model.safetensors").read_bytes() == (whole.folder / "best" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("at", range(3))
def test_a_kill_while_the_best_is_replaced_leaves_one_of_the_two(at, tmp_path, monkeypatch):
    folder = tmp_path / "best"
    probing.replace_folder(folder, lambda new: (new / "step").write_text("1"))
    calls = []

    def dying(real):
        def act(*arguments, **options):
            if len(calls) == at:
                raise KeyboardInterrupt
            calls.append(arguments)
            return real(*arguments, **options)

        return act

    with monkeypatch.context() as patched:
        patched.setattr(probing.os, "rename", dying(os.rename))
        write = dying(lambda new: (new / "step").write_text("2"))
        with pytest.raises(KeyboardInterrupt):
            probing.replace_folder(folder, write)
    probing.put_back(folder)
    assert (folder / "step").read_text() in ("1", "2")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
