import importlib
import math
import sys
import types
from dataclasses import replace

import pytest
import torch

from pipeline.step import Features


def with_subjects(step, subject):
    return replace(step, ids=replace(step.ids, subject=torch.tensor(subject)))


def points(objective, step):
    return [objective.projector(features.pooled).detach().double() for features in step.student["shown"]]


def nt_xent(first, second, subject, temperature, exclude):
    """The paper's equation 1 as loops over anchors."""
    z, subject = torch.cat([first, second]), [*subject, *subject]
    total = 0.0
    for i in range(len(z)):
        partner = (i + len(first)) % len(z)
        below = sum(
            math.exp(float(z[i] @ z[k]) / temperature)
            for k in range(len(z))
            if k == partner or (k != i and not (exclude and subject[k] == subject[i]))
        )
        total -= math.log(math.exp(float(z[i] @ z[partner]) / temperature) / below)
    return total / len(z)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("subject", [(0, 1, 2, 3), (0, 0, 1, 1)])
def test_the_loss_is_equation_1(make, context, network, make_step, subject, exclude):
    objective = make("simclr", context, temperature=0.3, exclude_same_subject=exclude)
    step = with_subjects(make_step(network, 2), subject)
    expected = nt_xent(*points(objective, step), subject, 0.3, exclude)
    assert float(objective(step).value.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_loss_agrees_with_lightly(make, context, network, make_step):
    loss = lightly_nt_xent(0.3)
    objective = make("simclr", context, temperature=0.3, exclude_same_subject=False)
    step = make_step(network, 2)
    first, second = (point.float() for point in points(objective, step))
    torch.testing.assert_close(objective(step).value.detach(), loss(first, second), rtol=1e-5, atol=1e-6)


def lightly_nt_xent(temperature):
    """lightly's NTXentLoss; its package asks torchvision for two names that this loss never uses, so stand-ins serve for the import."""
    if importlib.util.find_spec("lightly") is None:
        pytest.skip("lightly is not installed (pip install --no-deps lightly==1.6.0)")
    stubs = {"torchvision": types.ModuleType("torchvision"), "torchvision.ops": types.ModuleType("torchvision.ops")}
    stubs["torchvision.ops"].roi_align = stubs["torchvision.ops"].StochasticDepth = None
    stubs["torchvision"].ops = stubs["torchvision.ops"]
    kept = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        return importlib.import_module("lightly.loss.ntx_ent_loss").NTXentLoss(temperature=temperature)
    finally:
        for name, module in kept.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def test_a_batch_of_one_subject_has_no_negatives_and_no_loss(make, context, network, make_step):
    loss = make("simclr", context)(with_subjects(make_step(network, 2), (5, 5, 5, 5)))
    assert float(loss.value.detach()) == pytest.approx(0, abs=1e-6)


def test_collapsed_features_have_no_spread(make, context, network, make_step):
    objective, step = make("simclr", context), make_step(network, 2)
    same = tuple(Features(pooled=torch.ones_like(f.pooled)) for f in step.student["shown"])
    collapsed, healthy = (objective(one).points["spread"] for one in (replace(step, student={"shown": same}), step))
    assert collapsed.std(0).max() < 1e-6
    assert healthy.std(0).max() > 1e-4


def test_a_view_of_one_crop_is_refused(make, context, network, make_step):
    with pytest.raises(ValueError, match=r"objectives\.simclr\.view: 'shown' gives 1 crops a sample, not two"):
        make("simclr", context)(make_step(network, 1))
