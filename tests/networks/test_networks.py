"""The contract of every network in ``pipeline/networks``."""

import pytest
import torch
from torch import nn

from pipeline.keys import initialise
from pipeline.plugins import names

EVERYTHING = frozenset({"pooled", "levels", "dense"})
WIDER = {"unet": {"widths": [8, 16, 32, 64]}, "resenc": {"widths": [8, 16, 32, 64], "blocks": [1, 1, 1, 1]}}


@pytest.fixture(params=names("networks"))
def name(request):
    return request.param


@pytest.mark.parametrize("size", [(16, 16, 16), (17, 16, 19), (13, 21, 15), (9, 10, 11)])
def test_any_size_gives_features_of_the_declared_widths(name, size, build):
    network = build(name, channels=2)
    features = network(torch.rand(2, 2, *size), want=EVERYTHING)
    assert features.pooled.shape == (2, network.widths[-1])
    assert features.dense.shape == (2, network.dense_width, *size)
    assert len(features.levels) == len(network.widths) == len(network.geometry)
    for level, width, geometry in zip(features.levels, network.widths, network.geometry, strict=True):
        assert level.shape[:2] == (2, width)
        for count, n, stride, offset in zip(level.shape[2:], size, geometry.stride, geometry.offset_vox, strict=True):
            assert -0.5 <= stride * (count - 1) + offset <= n - 0.5, "the last feature voxel lies inside the crop"


def test_only_what_is_wanted_is_given(name, build):
    features = build(name)(torch.rand(1, 1, 16, 16, 16))
    assert features.pooled is not None
    assert features.dense is None
    assert features.levels == ()


@pytest.mark.parametrize("size", [(48, 45, 46), (43, 44, 47)])
def test_feature_voxels_lie_where_the_geometry_says(name, size, build, set_linear, place_of):
    network = set_linear(build(name))
    x = torch.ones(1, 1, *size, dtype=torch.float64, requires_grad=True)
    levels = network(x, want=frozenset({"levels"})).levels
    for level, geometry in zip(levels, network.geometry, strict=True):
        index = [n // 2 for n in level.shape[2:]]
        (gradient,) = torch.autograd.grad(level[(0, 0, *index)], x, retain_graph=True)
        expected = [s * j + o for s, j, o in zip(geometry.stride, index, geometry.offset_vox, strict=True)]
        torch.testing.assert_close(place_of(gradient), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_gradient_of_pooled_features_reaches_every_encoder_weight_and_no_other(name, build):
    network = build(name)
    network(torch.rand(2, 1, 16, 16, 16)).pooled.square().sum().backward()
    prefixes = network.encoder_keys()
    assert any(key.startswith(prefixes) for key in network.state_dict())
    for key, parameter in network.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == key.startswith(prefixes), key


def test_initial_weights_depend_on_seed_and_layer_name_only(name, build):
    alone, beside = build(name), nn.ModuleDict({"first": nn.Linear(3, 3), "network": build(name)})
    before = alone.state_dict()
    initialise(beside["network"], 0)
    assert all(torch.equal(before[key], value) for key, value in beside["network"].state_dict().items())
    initialise(alone, 1)
    assert any(not torch.equal(value, beside["network"].state_dict()[key]) for key, value in alone.state_dict().items())


def test_every_weight_is_reset_by_initialise(name, build):
    network = build(name)
    expected = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7.0)
    initialise(network, 0)
    assert all(torch.equal(expected[key], value) for key, value in network.state_dict().items())


def test_bfloat16_features_and_gradients_are_finite_also_on_a_constant_crop(name, build):
    network = build(name)
    x = torch.cat([torch.rand(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16), torch.ones(1, 1, 16, 16, 16)])
    with torch.autocast("cpu", torch.bfloat16):
        features = network(x, want=EVERYTHING)
    assert features.pooled.dtype == torch.float32
    (features.pooled.sum() + features.dense.float().square().mean()).backward()
    assert torch.isfinite(features.dense).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("size", [(16, 24, 16), (8, 12, 8), (5, 16, 3), (20, 5, 4), (4, 4, 20)])
def test_bfloat16_gradients_on_thin_crops_are_finite_and_repeat_bit_for_bit(name, size, build):
    """A CPU kernel that reads memory nobody wrote shows here, since freed memory is left full of NaN."""
    network = build(name, **WIDER.get(name, {}))
    x = torch.rand(2, 1, *size)

    def gradients():
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            features = network(x, want=EVERYTHING)
        loss = features.pooled.square().sum() + features.dense.float().square().mean()
        scrap = [torch.full((count,), torch.nan) for count in (10**3, 10**4, 10**5, *(p.numel() for p in network.parameters()))]
        del scrap
        loss.backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    first, second = gradients(), gradients()
    assert torch.isfinite(first).all()
    assert torch.equal(first, second)


def test_every_way_of_hiding_it_declares_keeps_hidden_voxels_from_the_features(name, build):
    network = build(name)
    x, hidden = torch.rand(1, 1, 16, 16, 16), torch.zeros(1, 16, 16, 16, dtype=torch.bool)
    hidden[:, 4:9, 5:12] = True
    other = torch.where(hidden[:, None], torch.rand_like(x), x)
    for hide in network.hides - {"none"}:
        first, second = (network(v, hidden, hide, EVERYTHING) for v in (x, other))
        torch.testing.assert_close(first.pooled, second.pooled, atol=0, rtol=0)
        torch.testing.assert_close(first.dense, second.dense, atol=0, rtol=0)
    assert not torch.equal(network(x).pooled, network(other).pooled)


def test_a_way_of_hiding_that_it_lacks_is_refused_with_its_name(name, build):
    network = build(name)
    for hide in {"drop", "token", "sparse"} - network.hides:
        with pytest.raises(ValueError, match=hide):
            network(torch.rand(1, 1, 16, 16, 16), torch.zeros(1, 16, 16, 16, dtype=torch.bool), hide)
