from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F


def restored(objective, step):
    return torch.sigmoid(F.conv3d(step.student["shown"][0].dense, objective.head.weight, objective.head.bias))


def with_view(step, **changes):
    return replace(step, views={"shown": (replace(step.views["shown"][0], **changes),)})


def test_restoration_is_the_mean_squared_error_where_all_voxels_are_valid(make, context, network, make_step):
    objective = make("restoration", context)
    step = make_step(network)
    batch = step.views["shown"][0]
    whole = with_view(step, valid=torch.ones_like(batch.valid))
    torch.testing.assert_close(objective(whole).value, F.mse_loss(restored(objective, step), batch.target))


def test_l1_is_the_mean_absolute_error_over_valid_voxels(make, context, network, make_step):
    objective = make("restoration", context, distance="l1")
    step = make_step(network)
    batch = step.views["shown"][0]
    expected = F.l1_loss(restored(objective, step)[:, :, 1:], batch.target[:, :, 1:])
    torch.testing.assert_close(objective(step).value, expected)


def test_voxels_outside_the_volume_change_nothing(make, context, network, make_step):
    objective = make("restoration", context)
    step = make_step(network)
    batch = step.views["shown"][0]
    other = torch.where(batch.valid[:, None], batch.target, 0.123)
    assert torch.equal(objective(step).value, objective(with_view(step, target=other)).value)


def test_the_altered_weight_moves_the_mean_towards_altered_voxels(make, context, network, make_step):
    step = make_step(network)
    plain, heavy = (make("restoration", context, altered_weight=w)(step) for w in (1.0, 4.0))
    share, altered, unaltered = (plain.metrics[key].double() for key in ("share_altered", "error_altered", "error_unaltered"))
    torch.testing.assert_close(plain.value.double(), share * altered + (1 - share) * unaltered, rtol=1e-5, atol=1e-7)
    expected = (4 * share * altered + (1 - share) * unaltered) / (4 * share + 1 - share)
    torch.testing.assert_close(heavy.value.double(), expected, rtol=1e-5, atol=1e-7)


def test_a_crop_without_altered_voxels_reports_a_share_of_zero(make, context, network, make_step):
    loss = make("restoration", context)(with_view(make_step(network), altered=None))
    assert loss.metrics["share_altered"] == 0
    assert loss.metrics["error_altered"] == 0
    torch.testing.assert_close(loss.metrics["error_unaltered"], loss.value)


def test_a_batch_without_a_valid_voxel_gives_zero(make, context, network, make_step):
    step = make_step(network)
    empty = with_view(step, valid=torch.zeros_like(step.views["shown"][0].valid))
    assert make("restoration", context)(empty).value == 0


def test_a_view_with_nothing_to_restore_is_refused(make, context, network, make_step):
    with pytest.raises(ValueError, match=r"objectives\.restoration\.view: 'shown' has nothing to restore"):
        make("restoration", context)(with_view(make_step(network), target=None))


def test_a_view_of_two_crops_is_refused(make, context, network, make_step):
    with pytest.raises(ValueError, match="gives 2 crops a sample"):
        make("restoration", context)(make_step(network, num_crops=2))
