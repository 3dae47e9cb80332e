"""int16 and the contract that leads back to physical values."""

import numpy as np
import pytest

from anatomy.grid import Grid
from pipeline.volumes.intensity import RANGE, foreground, to_stored
from pipeline.volumes.volume import Volume


def volume(*channels: np.ndarray) -> Volume:
    return Volume(np.stack(channels).astype(np.float32), Grid.of(channels[0].shape, (1, 1, 1)))


def test_ct_is_stored_in_rounded_hu_with_the_window_of_the_study() -> None:
    hu = np.linspace(-1024.4, 3071.6, 1000).reshape(10, 10, 10)
    stored, contract = to_stored(volume(hu), np.ones(hu.shape, bool), ("CT",), window_hu=(-150, 250))
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored[0], np.rint(hu.astype(np.float32)))
    assert (contract.window_low, contract.window_high, contract.slope, contract.inter) == ((-150.0,), (250.0,), (1.0,), (0.0,))


def test_mr_percentiles_of_the_body_span_the_window_whatever_the_scale() -> None:
    rng = np.random.default_rng(0)
    picture = rng.gamma(3, 1, size=(20, 20, 20))
    body = np.zeros(picture.shape, bool)
    body[5:15] = True
    picture[~body] = 0
    first, contract = to_stored(volume(picture), body, ("MR",), percentiles=(1, 99))
    low, high = np.percentile(picture[body].astype(np.float32), (1, 99))
    physical = first[0] * contract.slope[0] + contract.inter[0]
    np.testing.assert_allclose(physical, picture, atol=contract.slope[0])
    np.testing.assert_allclose([contract.window_low[0] * contract.slope[0] + contract.inter[0]], [low], rtol=1e-5)
    np.testing.assert_allclose([contract.window_high[0] * contract.slope[0] + contract.inter[0]], [high], rtol=1e-5)
    second, _ = to_stored(volume(picture * 1e-4), body, ("MR",), percentiles=(1, 99))
    assert np.abs(first.astype(int) - second).max() <= 1


def test_extreme_tails_end_at_the_limits_of_int16() -> None:
    picture = np.random.default_rng(0).normal(size=(20, 20, 20))
    picture[0, 0, 0], picture[0, 0, 1] = 1e6, -1e6
    stored, _ = to_stored(volume(picture), np.ones(picture.shape, bool), ("PT",))
    assert stored.max() == 32767
    assert stored.min() == -32768
    assert np.percentile(stored, 99.5) == pytest.approx(RANGE, abs=2)


def test_each_channel_has_its_own_contract() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(8, 8, 8)) * 300, rng.normal(size=(8, 8, 8))
    stored, contract = to_stored(volume(one, two), np.ones(one.shape, bool), ("CT", "PT"))
    assert stored.shape == (2, 8, 8, 8)
    assert contract.slope[0] == 1.0
    assert contract.slope[1] < 0.01


def test_a_body_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="both 7"):
        to_stored(volume(np.full((8, 8, 8), 7.0)), np.ones((8, 8, 8), bool), ("MR",))


def test_foreground_statistics_are_those_of_the_body_in_the_files_own_values() -> None:
    rng = np.random.default_rng(0)
    picture = rng.gamma(3, 100, size=(20, 20, 20))
    body = np.zeros(picture.shape, bool)
    body[5:15] = True
    picture[~body] = 0
    stored, contract = to_stored(volume(picture, picture - 900), body, ("PT", "CT"))
    pet, ct = foreground(stored, body, ("PT", "CT"), contract)
    assert ct is None
    assert pet["mean"] == pytest.approx(picture[body].mean(), rel=1e-3)
    assert pet["std"] == pytest.approx(picture[body].std(), rel=1e-3)
