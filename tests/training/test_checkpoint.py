"""A checkpoint is whole, proved by digests, or passed over."""

import pytest
import torch
from torch import nn

from pipeline.training import checkpoint
from pipeline.training.optimiser import make_optimiser, rate_factor, set_rate


def _save(folder, step, value=1.0):
    return checkpoint.save(folder, step, {"weight": torch.full((4,), value)}, {"journal": step})


def test_the_newest_checkpoint_is_loaded(tmp_path):
    _save(tmp_path, 10, 1.0)
    _save(tmp_path, 20, 2.0)
    tensors, state, complaints = checkpoint.load_latest(tmp_path)
    assert state["step"] == 20
    assert tensors["weight"].tolist() == [2.0] * 4
    assert complaints == []


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None


def test_older_checkpoints_are_pruned_but_two_are_kept(tmp_path):
    for step in (10, 20, 30, 40):
        _save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000030", "step_00000040"]


@pytest.mark.parametrize("fault", ["flip", "truncate", "missing", "manifest", "state"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, fault):
    _save(tmp_path, 10)
    newest = _save(tmp_path, 20)
    file = newest / "tensors.safetensors"
    if fault == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif fault == "truncate":
        file.write_bytes(file.read_bytes()[:-3])
    elif fault == "missing":
        file.unlink()
    elif fault == "manifest":
        (newest / "MANIFEST.json").unlink()
    else:
        (newest / "state.json").write_text("{}")
    _, state, complaints = checkpoint.load_latest(tmp_path)
    assert state["step"] == 10
    assert "step_00000020" in complaints[0]


def test_if_no_checkpoint_can_be_trusted_nothing_is_guessed(tmp_path):
    (_save(tmp_path, 10) / "MANIFEST.json").unlink()
    with pytest.raises(ValueError, match="no checkpoint can be trusted"):
        checkpoint.load_latest(tmp_path)


def test_an_interrupted_save_is_never_chosen_and_is_swept_away(tmp_path):
    (tmp_path / "tmp_00000030_1").mkdir(parents=True)
    _save(tmp_path, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000010"]


def test_an_optimiser_continues_bit_for_bit():
    def train(net, optimiser, first, last):
        for step in range(first, last):
            set_rate(optimiser, rate_factor(step, 10, 0.2))
            optimiser.zero_grad()
            net(torch.full((2, 3), float(step))).square().sum().backward()
            optimiser.step()

    torch.manual_seed(0)
    whole = nn.Linear(3, 2)
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    optimiser = make_optimiser([(whole.parameters(), 1.0)], 1e-2, 1e-2)
    train(whole, optimiser, 0, 10)

    first = nn.Linear(3, 2)
    first.load_state_dict(start)
    half = make_optimiser([(first.parameters(), 1.0)], 1e-2, 1e-2)
    train(first, half, 0, 5)
    second = nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    other = make_optimiser([(second.parameters(), 1.0)], 1e-2, 1e-2)
    checkpoint.load_optimiser(other, checkpoint.optimiser_tensors(half))
    train(second, other, 5, 10)
    assert torch.equal(whole.weight, second.weight)
    assert torch.equal(whole.bias, second.bias)


def test_the_rate_rises_falls_and_ends_near_zero():
    factors = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.001


def test_frozen_groups_and_norms_are_treated_as_said():
    net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    optimiser = make_optimiser([(net[0].parameters(), 0.0), (net[1:].parameters(), 0.5)], 1e-2, 0.1)
    assert [len(group["params"]) for group in optimiser.param_groups] == [1, 3]
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.1, 0.0]
    assert all(group["lr"] == pytest.approx(5e-3) for group in optimiser.param_groups)
