"""The contract of every objective in ``pipeline/objectives``."""

import copy

import pytest
import torch

from pipeline.plugins import load, names


@pytest.fixture(params=names("objectives"))
def name(request):
    return request.param


@pytest.fixture
def objective(name, context, make):
    return make(name, context)


@pytest.fixture
def num_crops(objective, network, make_step):
    """How many crops a sample this objective compares: it refuses the wrong number with a ``ValueError``."""
    try:
        objective(make_step(network, 1))
    except ValueError as error:
        if "not two" not in str(error):
            raise
        return 2
    return 1


def fill(objective, network, make_step, num_crops):
    """A few accepted steps on other subjects, so that queues and banks hold something."""
    for seed in range(1, 6):
        with torch.no_grad():
            objective.update(make_step(network, num_crops, seed=seed))


def test_it_asks_for_the_view_it_is_given(objective):
    assert objective.asks()
    assert {ask.view for ask in objective.asks()} == {"shown"}


def test_a_teacher_is_asked_for_exactly_where_a_momentum_is_named(objective):
    asked = any(ask.of == "teacher" for ask in objective.asks())
    assert asked == (objective.momentum(0.0) is not None)
    if asked:
        assert 0 <= objective.momentum(0.0) <= objective.momentum(0.5) <= objective.momentum(1.0) <= 1


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_loss_and_gradients_are_finite(objective, network, make_step, num_crops, bf16, constant):
    fill(objective, network, make_step, num_crops)
    step = make_step(network, num_crops, constant=constant, bf16=bf16)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = objective(step)
    assert loss.value.dtype == torch.float32
    loss.value.backward()
    assert torch.isfinite(loss.value)
    gradients = {key: p.grad for key, p in [*objective.named_parameters(), *network.named_parameters()] if p.grad is not None}
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    if not constant:
        assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
        assert any(gradient.abs().sum() > 0 for key, gradient in gradients.items() if key.startswith("encoder."))


def test_figures_are_single_numbers_without_a_gradient(objective, network, make_step, num_crops):
    loss = objective(make_step(network, num_crops))
    assert loss.value.ndim == 0
    assert all(term.ndim == 0 for term in loss.terms.values())
    for figure, value in loss.metrics.items():
        assert value.ndim == 0, figure
        assert not value.requires_grad, figure
        assert torch.isfinite(value), figure


def test_points_are_rows_without_a_gradient_and_whoever_restores_says_its_contrast(objective, network, make_step, num_crops):
    step = make_step(network, num_crops)
    loss = objective(step)
    assert all(points.ndim == 2 and len(points) == 4 and not points.requires_grad for points in loss.points.values())
    restored = objective.restored(step)
    assert ("contrast" in loss.metrics) == (restored is not None), "the alarm on one grey reads it"
    if restored is not None:
        view, given = restored
        own, wanted = (volumes.detach().flatten(1).std(1, correction=0) for volumes in (given, step.views[view][0].target))
        torch.testing.assert_close(loss.metrics["contrast"], own.mean() / wanted.mean(), rtol=1e-5, atol=0)
        torch.testing.assert_close(loss.counts["contrast"], wanted.sum(), rtol=1e-5, atol=0)


def test_bfloat16_features_give_nearly_the_float32_loss(objective, network, make_step, num_crops):
    fill(objective, network, make_step, num_crops)
    exact = objective(make_step(network, num_crops)).value
    torch.testing.assert_close(objective(make_step(network, num_crops, bf16=True)).value, exact, rtol=0.1, atol=0.02)


def test_it_learns_on_a_toy_batch(objective, network, make_step, num_crops):
    fill(objective, network, make_step, num_crops)
    parameters = [p for p in [*objective.parameters(), *network.parameters()] if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=3e-3)
    losses = []
    for _ in range(30):
        loss = objective(make_step(network, num_crops))
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
        losses.append(float(loss.value.detach()))
    assert losses[-1] < 0.9 * losses[0], losses


def test_forward_writes_nothing_and_repeats_itself(objective, network, make_step, num_crops):
    fill(objective, network, make_step, num_crops)
    step = make_step(network, num_crops)
    before = copy.deepcopy(objective.state_dict())
    voxels = [view.voxels.clone() for view in step.views["shown"]]
    first, second = objective(step), objective(step)
    assert torch.equal(first.value, second.value)
    assert all(torch.equal(value, second.metrics[key]) for key, value in first.metrics.items())
    assert all(torch.equal(before[key], value) for key, value in objective.state_dict().items())
    assert all(torch.equal(a, b.voxels) for a, b in zip(voxels, step.views["shown"], strict=True))


def test_state_survives_a_resume(name, context, make, network, make_step, num_crops):
    first, resumed = make(name, context), make(name, context)
    fill(first, network, make_step, num_crops)
    resumed.load_state_dict(first.state_dict(), strict=True)
    for seed in (7, 8):
        step = make_step(network, num_crops, seed=seed)
        assert torch.equal(first(step).value, resumed(step).value)
        with torch.no_grad():
            first.update(step)
            resumed.update(step)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in first.state_dict().items())


def test_initial_weights_are_a_function_of_the_seed(name, context, make):
    first, second = make(name, context).state_dict(), make(name, context).state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_weight_is_a_setting_of_every_objective(name):
    assert "weight" in load("objectives", name).Config.model_fields
    assert all(field.description for field in load("objectives", name).Config.model_fields.values())
