import pytest
import torch

from pipeline.plugins import load, settings
from pipeline.step import Context

DENSE = frozenset({"dense"})


def test_a_network_pretrained_without_skips_loads_strictly_into_one_with_skips(build):
    without, with_skips = build("unet", skips=False), build("unet", skips=True)
    with_skips.load_state_dict(without.state_dict(), strict=True)
    x = torch.rand(1, 1, 16, 16, 16)
    assert torch.equal(with_skips(x).pooled, without(x).pooled)
    assert not torch.equal(with_skips(x, want=DENSE).dense, without(x, want=DENSE).dense)


def test_skips_change_no_initial_weight(build):
    without, with_skips = build("unet", skips=False).state_dict(), build("unet", skips=True).state_dict()
    assert all(torch.equal(value, with_skips[key]) for key, value in without.items())


def test_without_skips_the_decoder_sees_only_the_coarsest_level(build):
    network = build("unet", skips=False)
    levels = [torch.rand(1, width, *(16 // 2**level,) * 3) for level, width in enumerate(network.widths)]
    changed = [torch.rand_like(level) for level in levels[:-1]] + levels[-1:]
    assert torch.equal(network._decode(levels), network._decode(changed))
    network.skips = True
    assert not torch.equal(network._decode(levels), network._decode(changed))


@pytest.mark.parametrize("voxel", [(20, 21, 22), (23, 20, 21)])
def test_a_dense_feature_is_centred_on_its_own_voxel(voxel, build, set_linear, place_of):
    network = set_linear(build("unet"))
    x = torch.ones(1, 1, 43, 44, 45, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x, want=DENSE).dense[(0, 0, *voxel)], x)
    torch.testing.assert_close(place_of(gradient), torch.tensor(voxel, dtype=torch.float64), atol=0.1, rtol=0)


def test_dense_gradients_reach_every_weight_but_the_mask_token(build):
    network = build("unet", decoder_blocks=2)
    network(torch.rand(2, 1, 16, 16, 16), want=DENSE).dense.square().mean().backward()
    missed = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missed == ["mask_token.value"]


def test_instance_norm_equals_the_formula(build):
    network = build("unet")
    x = torch.rand(2, 1, 16, 16, 16)
    block = network.encoder[0][0]
    feature = block.conv(x)
    mean, variance = feature.mean((2, 3, 4), keepdim=True), feature.var((2, 3, 4), keepdim=True, correction=0)
    torch.testing.assert_close(block.norm(feature), (feature - mean) / (variance + 1e-5).sqrt(), atol=1e-5, rtol=1e-4)


def test_channels_that_differ_from_the_scans_are_refused():
    context = Context(num_scans=1, batch=1, num_steps=1, size_vox=(8, 8, 8), channels=1)
    with pytest.raises(ValueError, match=r"unet\.channels"):
        load("networks", "unet")(settings("networks", "unet", {"channels": 3}), context)


def test_a_crop_that_shrinks_to_one_voxel_is_refused(build):
    with pytest.raises(ValueError, match="larger crops"):
        build("unet", widths=[4, 4, 4, 4])(torch.rand(1, 1, 8, 8, 8))


def test_a_group_that_divides_no_width_is_refused(build):
    with pytest.raises(ValueError, match="group_width"):
        build("unet", norm="group", group_width=8, widths=[12, 16])
