import pytest
import torch
from pydantic import ValidationError
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.plugins import load, settings
from pipeline.step import Context

EVERYTHING = frozenset({"pooled", "levels", "dense"})
SMALL = {"widths": [4, 6, 8], "blocks": [1, 2, 1]}


def make(**values):
    context = Context(num_scans=1, batch=1, num_steps=1, size_vox=(16, 16, 16), channels=1)
    return load("networks", "resenc")(settings("networks", "resenc", values), context)


def test_the_default_has_the_weights_of_resenc_l():
    """nnU-Net states 102 M for it; convolutions that a norm follows have no bias here."""
    with torch.device("meta"):
        network = make()
    count = sum(p.numel() for p in network.parameters())
    assert count == 102_335_105
    assert [len(stage) for stage in network.encoder] == [1, 3, 4, 6, 6, 6]


def test_every_weight_of_the_formula_is_there_and_no_other():
    def block(a, b, k=3):
        return a * b * k**3 + 2 * b

    def residual(a, b):
        return block(a, b) + block(b, b) + (block(a, b, 1) if a != b else 0)

    encoder = block(1, 4) + residual(4, 4) + residual(4, 6) + residual(6, 6) + residual(6, 8)
    decoder = (8 * 6 * 8 + 6) + block(12, 6) + (6 * 4 * 8 + 4) + block(8, 4)
    assert sum(p.numel() for p in make(**SMALL).parameters()) == encoder + decoder + 1  # the mask token


@pytest.mark.parametrize("size", [(96, 96, 96), (64, 96, 80)])
def test_full_size_shapes(size):
    with FakeTensorMode():
        features = make()(torch.zeros(1, 1, *size), want=EVERYTHING)
    assert [tuple(level.shape[2:]) for level in features.levels] == [tuple(-(-n // 2**level) for n in size) for level in range(6)]
    assert features.dense.shape == (1, 32, *size)


def test_the_ways_of_a_shortcut_share_their_weights_and_lie_at_most_half_a_voxel_apart(build, set_linear, place_of):
    strided, average = build("resenc"), build("resenc", shortcut="average")
    average.load_state_dict(strided.state_dict(), strict=True)
    x = torch.rand(1, 1, 17, 16, 19)
    assert not torch.equal(strided(x).pooled, average(x).pooled)
    assert average(x, want=EVERYTHING).dense.shape == (1, 4, 17, 16, 19)
    network = set_linear(average)
    x = torch.ones(1, 1, 48, 48, 48, dtype=torch.float64, requires_grad=True)
    for level, (feature, geometry) in enumerate(zip(network(x, want=EVERYTHING).levels, network.geometry, strict=True)):
        (gradient,) = torch.autograd.grad(feature[0, 0, 5, 5, 5], x, retain_graph=True)
        place = place_of(gradient)
        assert bool((place >= 5 * 2**level - 1e-6).all())
        assert bool((place <= 5 * 2**level + (2**level - 1) / 2 + 1e-6).all())
        assert geometry.offset_vox == ((2**level - 1) / 4,) * 3


@pytest.mark.parametrize("voxel", [(20, 21, 22), (23, 20, 21)])
def test_a_dense_feature_lies_within_two_voxels_of_its_own(voxel, build, set_linear, place_of):
    """A transposed convolution of size 2 hands a coarse voxel to two fine ones, of which it can lie on one only."""
    network = set_linear(build("resenc"))
    x = torch.ones(1, 1, 43, 44, 45, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x, want=EVERYTHING).dense[(0, 0, *voxel)], x)
    assert float((place_of(gradient) - torch.tensor(voxel, dtype=torch.float64)).abs().max()) < 2


def test_dense_gradients_reach_every_weight_but_the_mask_token(build):
    network = build("resenc", decoder_blocks=2)
    network(torch.rand(2, 1, 16, 16, 16), want=EVERYTHING).dense.square().mean().backward()
    missed = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missed == ["mask_token.value"]


def test_numbers_of_blocks_and_widths_that_differ_are_refused():
    with pytest.raises(ValidationError, match="one for each level"):
        settings("networks", "resenc", {"widths": [8, 16], "blocks": [1]})


def test_what_the_scans_cannot_fit_is_refused(build):
    with pytest.raises(ValueError, match=r"resenc\.channels"):
        make(channels=3)
    with pytest.raises(ValueError, match="larger crops"):
        build("resenc", widths=[4] * 4, blocks=[1] * 4)(torch.rand(1, 1, 8, 8, 8))
