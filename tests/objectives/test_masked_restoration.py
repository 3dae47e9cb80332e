from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from pipeline.objectives.masked_restoration import normalise_patches


def with_view(step, **changes):
    return replace(step, views={"shown": (replace(step.views["shown"][0], **changes),)})


def answer(objective, step):
    return F.conv3d(step.student["shown"][0].dense, objective.head.weight, objective.head.bias)


def test_only_hidden_voxels_count(make, context, network, make_step):
    objective = make("masked_restoration", context)
    step = make_step(network)
    batch = step.views["shown"][0]
    chosen = (batch.hidden & batch.valid)[:, None]
    expected = F.mse_loss(torch.sigmoid(answer(objective, step))[chosen], batch.target[chosen])
    torch.testing.assert_close(objective(step).value, expected)
    visible_changed = with_view(step, target=torch.where(batch.hidden[:, None], batch.target, 0.321))
    assert torch.equal(objective(visible_changed).value, objective(step).value)


def test_a_view_that_only_alters_is_scored_on_altered_voxels(make, context, network, make_step):
    objective, step = make("masked_restoration", context), make_step(network)
    assert torch.equal(objective(with_view(step, hidden=None)).value, objective(step).value)


def test_patches_are_normalised_one_by_one():
    target = torch.rand(2, 1, 5, 4, 6)
    found = normalise_patches(target, 4)
    for low in (0, 4):
        patch = target[:, :, :4, :, low : low + 4]
        mean, variance = patch.mean((2, 3, 4), keepdim=True), patch.var((2, 3, 4), keepdim=True, correction=0)
        expected = (patch - mean) / (variance + 1e-6).sqrt()
        torch.testing.assert_close(found[:, :, :4, :, low : low + 4], expected, rtol=1e-3, atol=1e-3)


def test_with_patches_the_answer_is_linear_and_its_target_normalised(make, context, network, make_step):
    objective, step = make("masked_restoration", context, patch_vox=4), make_step(network)
    batch = step.views["shown"][0]
    chosen = (batch.hidden & batch.valid)[:, None]
    expected = F.mse_loss(answer(objective, step)[chosen], normalise_patches(batch.target, 4)[chosen])
    torch.testing.assert_close(objective(step).value, expected)


def test_a_view_that_hides_nothing_is_refused(make, context, network, make_step):
    with pytest.raises(ValueError, match=r"objectives\.masked_restoration\.view: 'shown' hides no voxel"):
        make("masked_restoration", context)(with_view(make_step(network), hidden=None, altered=None))
