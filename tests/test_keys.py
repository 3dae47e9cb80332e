"""Counter keys: uniform, independent, and the same in any company."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import keys

KEYS = torch.tensor([keys.key("test", number) for number in range(6)])


def test_keys_are_equal_for_equal_parts_only():
    assert keys.key(1, "a") == keys.key(1, "a")
    assert len({keys.key(1, "a"), keys.key("1", "a"), keys.key("a", 1), keys.key(1, "b"), keys.key(2, "a"), keys.key("1a")}) == 6
    assert 0 <= keys.key("anything") < 2**63


@pytest.mark.parametrize("draw", [keys.uniform, keys.normal, keys.noise])
def test_a_sample_draws_the_same_alone_and_in_a_batch(draw):
    together = draw(KEYS, 5, 7)
    alone = draw(KEYS[3:4], 5, 7)
    assert torch.equal(together[3], alone[0])


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, *KEYS.tolist()])
def test_a_host_draws_the_same_numbers_without_tensors(seed):
    assert np.array_equal(keys.numbers(seed, 9), keys.uniform(torch.tensor([seed]), 9)[0].numpy())


@pytest.mark.parametrize(("draw", "mean", "variance"), [(keys.uniform, 0.5, 1 / 12), (keys.noise, 0.5, 1 / 12), (keys.normal, 0.0, 1.0)])
def test_draws_have_the_right_moments_and_do_not_correlate(draw, mean, variance):
    values = draw(KEYS, 40_000).to(torch.float64)
    assert values.mean().item() == pytest.approx(mean, abs=0.01)
    assert values.var().item() == pytest.approx(variance, rel=0.02)
    between = np.corrcoef(values.numpy())
    assert np.abs(between - np.eye(len(KEYS))).max() < 0.03
    assert abs(np.corrcoef(values[0, :-1], values[0, 1:])[0, 1]) < 0.03


def test_uniform_stays_below_one_and_covers_its_range_evenly():
    values = keys.uniform(KEYS, 100_000)
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values, bins=50, min=0, max=1)
    assert (counts / counts.mean() - 1).abs().max() < 0.05


def test_integers_respect_their_bounds_and_broadcast():
    low = torch.tensor([0, 5, -3])
    draws = keys.integers(KEYS, low, low + 4, 1000, 3)
    assert draws.reshape(-1, 3).amin(0).tolist() == [0, 5, -3]
    assert draws.reshape(-1, 3).amax(0).tolist() == [3, 8, 0]


def test_a_folded_key_is_another_key():
    folded = keys.fold(KEYS, "crop")
    assert not torch.isin(folded, KEYS).any()
    assert torch.equal(folded, keys.fold(KEYS, "crop"))
    assert not torch.equal(folded, keys.fold(KEYS, "noise"))


def test_a_permutation_holds_everything_once_and_depends_on_its_seed():
    assert sorted(keys.permutation(3, 100)) == list(range(100))
    assert not np.array_equal(keys.permutation(3, 100), keys.permutation(4, 100))


def test_initial_weights_depend_on_the_name_of_the_layer_and_on_nothing_else():
    def make(extra):
        net = nn.ModuleDict({"encoder": nn.Conv3d(1, 4, 3)} | ({"other": nn.Linear(3, 3)} if extra else {}) | {"head": nn.Linear(4, 2)})
        keys.initialise(net, 7)
        return net.state_dict()

    plain, grown = make(extra=False), make(extra=True)
    assert all(torch.equal(value, grown[name]) for name, value in plain.items())


def test_initialising_leaves_the_global_generator_alone():
    net = nn.Linear(3, 3)
    before = torch.get_rng_state()
    keys.initialise(net, 1)
    assert torch.equal(before, torch.get_rng_state())
