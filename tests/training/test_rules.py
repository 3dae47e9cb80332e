"""Steps that go wrong: the same skip on all ranks, samples named; after ten in a row back to a checkpoint, then an end with a reason."""

import pytest
import torch
import toy

from pipeline.files import digest_of
from pipeline.training.faults.spikes import Spikes
from pipeline.training.injection import Fault, Faults


class Weights:
    """A watcher that writes down what this rank's learner holds after a step."""

    def __init__(self, folder, rank, at):
        self.path, self.at = folder / f"weights{rank}.txt", at

    def stepped(self, loop, done, step, losses):
        if done == self.at:
            state = {name: value.tolist() for name, value in loop.learner.state_dict().items()}
            self.path.write_text(digest_of(state))

    def journalled(self, loop, done):
        return {}

    def state(self):
        return {}

    tensors = state

    def load_state(self, state):
        pass

    load_tensors = load_state


@pytest.mark.parametrize(("act", "place", "rank"), [("nan", "loss", 1), ("nan", "gradient", 0), ("inf", "gradient", 1)])
def test_all_ranks_skip_the_same_step_and_stay_equal(stored, tmp_path, act, place, rank):
    def work(ranks):
        watchers = [Weights(tmp_path, ranks.rank, 24)]
        toy.make_loop(stored, tmp_path, ranks, [Fault(act, place, 7, rank)], watchers).run(toy.WHO)

    assert toy.ranks_in_forks(work, 2, tmp_path / "said.txt") == [0, 0], toy.said(tmp_path)
    assert (tmp_path / "weights0.txt").read_text() == (tmp_path / "weights1.txt").read_text()
    (note,) = toy.notes(tmp_path)
    assert (note["step"], note["samples"]) == (7, [28, 29, 30, 31])
    assert note["text"].startswith("skipped: a loss or a gradient is not finite")
    order = toy.Places(10, 3).order
    assert note["scans"] == [stored[1]["scan_id"][order(sample)] for sample in note["samples"]]


def loop_of(stored, folder, *faults, **changes):
    return toy.make_loop(stored, folder, toy.Ranks(device=torch.device("cpu")), faults, **changes)


def test_a_skipped_step_leaves_no_trace_but_its_note(stored, tmp_path):
    loop = loop_of(stored, tmp_path, Fault("nan", "loss", 3))
    regions = list(loop.loader.batches(0, 4))
    for step in range(3):
        loop.step(step, regions[step])
    before = {name: value.clone() for name, value in loop.learner.state_dict().items()}
    moments = {name: value.clone() for name, value in toy.optimiser_tensors(loop.optimiser).items()}
    outcome, _ = loop.step(3, regions[3])
    assert not outcome.good
    assert all(torch.equal(value, before[name]) for name, value in loop.learner.state_dict().items())
    assert all(torch.equal(value, moments[name]) for name, value in toy.optimiser_tensors(loop.optimiser).items())


def test_ten_in_a_row_go_back_once_with_other_samples_and_the_run_ends_well(stored, tmp_path):
    faults = [Fault("nan", "loss", step) for step in range(8, 18)]
    assert toy.train(stored, tmp_path, 1, faults, steps=40) == [0], toy.said(tmp_path)
    back = next(note for note in toy.notes(tmp_path) if note["text"].startswith("went back"))
    assert back["text"] == "went back from step 17 to 15: 10 steps in a row were not finite"
    assert back["first_sample"] == 40 * 4
    assert [entry["step"] for entry in back["skipped"]] == list(range(8, 18))
    steps = [entry["step"] for entry in toy.entries(tmp_path) if entry["kind"] == "train"]
    assert steps == list(range(1, 41))


def test_ten_in_a_row_twice_end_the_run_with_a_reason(stored, tmp_path):
    assert toy.train(stored, tmp_path, 1, [Fault("nan", "gradient", times=99)], steps=40) == [1]
    assert "10 steps in a row without a finite loss and gradient, and again after going back" in toy.said(tmp_path)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_before_or_after_it_went_back_ends_as_one_that_was_not(stored, tmp_path, world, when):
    bad = [Fault("nan", "loss", step, world - 1) for step in range(6, 16)]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert toy.train(stored, whole, world, bad) == [0] * world, toy.said(whole)
    kill = Fault("kill", "step", 15, 0) if when == "before" else Fault("kill", "loss", 17, 0)
    assert -9 in toy.train(stored, broken, world, [*bad, kill])
    assert toy.train(stored, broken, world, bad) == [0] * world, toy.said(broken)
    assert toy.final(broken) == toy.final(whole)
    assert toy.entries(broken) == toy.entries(whole)


def test_a_spike_is_noted_and_changes_nothing_unless_the_recipe_says_skip(stored, tmp_path):
    for name, changes in {"none": {}, "note": {}, "skip": {"spikes": "skip"}}.items():
        faults = [Fault("big", "loss", 60)] if name != "none" else []
        assert toy.train(stored, tmp_path / name, 1, faults, steps=64, **changes) == [0]
    assert toy.weights(tmp_path / "none") == toy.weights(tmp_path / "note") != toy.weights(tmp_path / "skip")
    for name, word in (("note", "noted"), ("skip", "skipped")):
        assert [(n["step"], n["text"]) for n in toy.notes(tmp_path / name) if n["step"] == 60] == [
            (60, f"{word}: the loss is far above the last ones")
        ]


def test_the_spike_rule_is_median_plus_six_mad_of_the_last_200_finite_losses():
    spikes, known = Spikes("cpu"), []
    torch.manual_seed(0)
    for step in range(300):
        loss = torch.rand(()) + (10 if step % 97 == 96 else 0)
        finite = torch.tensor(step % 13 != 5)
        window = torch.tensor(known[-200:])
        window = window[~window.isnan()].sort().values
        found = spikes.found(loss, finite)
        if step >= 50:
            middle = window[(len(window) - 1) // 2]
            deviation = (window - middle).abs().sort().values[(len(window) - 1) // 2]
            assert bool(found) == (bool(finite) and float(loss) > float(middle + 6 * deviation))
        known.append(float(loss) if finite else float("nan"))


def test_faults_are_inert_unless_told_and_a_wrong_one_is_refused():
    assert Faults.from_environment(0, {}).faults == []
    text = "kill@save:rename,step=40; hang@step,step=7,rank=1"
    assert Faults.from_environment(1, {"VESALIUS_FAULTS": text}).faults == [Fault("kill", "save:rename", 40), Fault("hang", "step", 7, 1)]
    assert Faults.from_environment(0, {"VESALIUS_FAULTS": text}).faults == [Fault("kill", "save:rename", 40)]
    for wrong in ("explode@step", "kill@moon", "kill", "kill@step,when=3", "kill@step,step=x"):
        with pytest.raises(ValueError, match="VESALIUS_FAULTS"):
            Faults.from_environment(0, {"VESALIUS_FAULTS": wrong})
