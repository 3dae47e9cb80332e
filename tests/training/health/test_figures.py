"""Each figure against its formula, on features whose rank and spread are known."""

import math

import pytest
import torch

from pipeline.keys import normal
from pipeline.step import Features
from pipeline.training.health import figures
from pipeline.training.health.ring import ROWS, STEPS, Ring, at_places, rows_of
from pipeline.training.micro import PLACES, thinned


def rows(count, width, seed=0):
    return normal(torch.arange(count) + 1000 * seed, width)


def test_rank_is_the_exponential_of_the_entropy_of_the_singular_values():
    values = rows(40, 12)
    singular = torch.linalg.svdvals(values.double())
    shares = singular / singular.sum()
    expected = math.exp(float(-(shares * shares.log()).sum()))
    assert float(figures.rank(figures.spectrum(values))) == pytest.approx(expected, rel=1e-4)
    wide = figures.rank(figures.spectrum(values.T))
    assert float(wide) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("number", [1, 4])
def test_features_in_few_directions_have_their_number_as_rank_and_nothing_outside(number):
    values = rows(64, number) @ rows(number, 32, seed=1)
    spectrum = figures.spectrum(values)
    assert float(figures.rank(spectrum)) <= number + 0.01
    assert float(figures.outside(spectrum, number)) < 1e-6
    assert float(figures.outside(figures.spectrum(rows(64, 32)), number)) > 0.5


def test_spread_is_near_one_for_even_directions_and_zero_for_one():
    assert float(figures.spread(rows(4000, 64))) == pytest.approx(1.0, abs=0.02)
    assert float(figures.spread(torch.ones(100, 64))) == pytest.approx(0.0, abs=1e-5)


def test_an_answer_that_only_moves_from_step_to_step_does_not_vary():
    moving = torch.arange(8.0)[:, None, None].expand(8, 4, 16)
    assert float(figures.variation(moving)) == 0
    assert float(figures.outside(figures.spectrum(figures.deviations(moving)), 1)) == 0
    assert float(figures.variation(rows(32, 16).reshape(8, 4, 16))) == pytest.approx(math.sqrt(3 / 4), abs=0.05)
    single = rows(8, 16)[:, None]
    assert torch.allclose(figures.deviations(single).mean(0), torch.zeros(16), atol=1e-6)


def test_entropy_is_one_for_uniform_codes_and_zero_for_certain_ones():
    assert float(figures.entropy(torch.full((5, 7), 1 / 7))) == pytest.approx(1.0)
    assert float(figures.entropy(torch.eye(7))) == pytest.approx(0.0, abs=1e-6)
    half = torch.tensor([[0.5, 0.5, 0, 0]])
    assert float(figures.entropy(half)) == pytest.approx(0.5)


def test_use_of_prototypes_is_measured_by_what_even_choices_would_reach():
    even = torch.randint(0, 50, (200,), generator=torch.Generator().manual_seed(0))
    assert float(figures.used(even, 50)) == pytest.approx(1.0, abs=0.05)
    assert float(figures.used(torch.zeros(200, dtype=torch.int64), 50)) == pytest.approx(1 / 49.1, rel=0.02)


def test_a_ring_holds_the_last_rows_and_no_more():
    ring = Ring()
    for step in range(100):
        ring.add(torch.full((16, 3), float(step)))
    assert ring.steps().shape == (ROWS // 16, 16, 3)
    assert sorted(ring.steps()[:, 0, 0].tolist()) == list(range(100 - ROWS // 16, 100))
    few = Ring()
    few.add(torch.zeros(1, 3))
    assert few.steps().shape == (1, 1, 3)
    assert few.values.shape[0] == STEPS
    many = Ring()
    many.add(torch.zeros(ROWS + 5, 3))
    assert many.steps().shape == (1, ROWS, 3)


def test_dense_features_stand_by_voxels_of_their_crop():
    dense = torch.arange(2 * 3 * 8 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8, 8)
    picked = at_places(dense)
    assert picked.shape == (2 * PLACES, 3)
    assert torch.equal(picked[0], dense[0, :, 1, 1, 1])
    assert torch.equal(picked[-1], dense[1, :, 7, 7, 7])
    assert torch.equal(at_places(thinned(dense)), picked)
    found = rows_of((Features(pooled=torch.ones(2, 5), levels=(dense, dense)), Features(pooled=torch.zeros(2, 5), levels=(dense, dense))))
    assert {kind: value.shape for kind, value in found.items()} == {"pooled": (4, 5), "level": (4 * PLACES, 3)}
