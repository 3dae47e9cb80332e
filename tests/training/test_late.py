"""The path that a GPU takes, on a CPU: a fused optimiser that is told by a tensor, and figures that are read eight steps late."""

import pytest
import torch
import toy

from pipeline.training.injection import Fault
from pipeline.training.optimiser import make_optimiser
from pipeline.training.readings import LATE
from pipeline.training.signals import Stopped
from pipeline.training.stepping import Stepper


def late_loop(stored, folder, *faults, **changes):
    """A loop as on a GPU: nothing that it does looks at a step's figures before ``LATE`` more have been queued."""
    loop = toy.make_loop(stored, folder, toy.Ranks(device=torch.device("cpu")), faults, **changes)
    training = loop.training
    loop.optimiser = make_optimiser([(loop.trained, 1.0)], training.learning_rate, training.weight_decay)
    for group in loop.optimiser.param_groups:
        group.update(fused=True, foreach=False)
    loop.optimiser.defaults["fused"] = True
    kept = [value for value in (*loop.learner.parameters(), *loop.learner.buffers()) if not value.requires_grad]
    loop.stepper = Stepper(loop.trained, loop.optimiser, training.steps, training.warmup, training.clip, kept, loop.ranks, loop.spikes)
    loop.readings.late = LATE
    return loop


def state(loop):
    return {name: value.clone() for name, value in {**loop.learner.state_dict(), **toy.optimiser_tensors(loop.optimiser)}.items()}


def test_a_skip_that_only_the_device_knows_of_leaves_no_trace(stored, tmp_path):
    loop = late_loop(stored, tmp_path, Fault("nan", "gradient", 3))
    regions = list(loop.loader.batches(0, 5))
    for step in range(3):
        loop.step(step, regions[step])
    before = state(loop)
    outcome, _ = loop.step(3, regions[3])
    assert not outcome.good
    assert all(torch.equal(value, before[name]) for name, value in state(loop).items())
    loop.step(4, regions[4])
    assert not torch.equal(state(loop)["queue"], before["queue"])


def test_a_signal_is_heard_at_most_ten_steps_late_and_nothing_is_lost(stored, tmp_path):
    late_loop(stored, tmp_path / "whole").run(toy.WHO)
    with pytest.raises(Stopped) as stopped:
        late_loop(stored, tmp_path / "stopped", Fault("term", "step", 11), checkpoint_every=50).run(toy.WHO)
    assert stopped.value.code == 75
    assert 12 <= int(toy.checkpoints(tmp_path / "stopped")[-1][5:]) <= 12 + 10
    late_loop(stored, tmp_path / "stopped", checkpoint_every=50).run(toy.WHO)
    assert toy.weights(tmp_path / "stopped") == toy.weights(tmp_path / "whole")
    assert toy.entries(tmp_path / "stopped") == toy.entries(tmp_path / "whole")


def test_ten_bad_steps_are_found_late_and_the_run_goes_back_all_the_same(stored, tmp_path):
    late_loop(stored, tmp_path, *(Fault("nan", "loss", step) for step in range(8, 18)), steps=48).run(toy.WHO)
    (back,) = [note for note in toy.notes(tmp_path) if note["text"].startswith("went back")]
    assert [entry["step"] for entry in back["skipped"]] == list(range(8, 18))
    steps = [entry["step"] for entry in toy.entries(tmp_path) if entry["kind"] == "train"]
    assert steps == list(range(1, 49))
