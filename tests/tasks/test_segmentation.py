"""Segmentation: losses by hand, windows against MONAI's."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from pipeline.plugins import load, settings
from pipeline.step import Context
from pipeline.tasks._windows import sliding, starts
from pipeline.tasks.segmentation import soft_dice_loss

CONTEXT = Context(num_scans=1, batch=1, num_steps=1, size_vox=(8, 8, 8), channels=1)


def task(**values):
    return load("tasks", "segmentation")(settings("tasks", "segmentation", {"classes": {1: "grey", 4: "white"}, **values}), CONTEXT)


def test_label_values_become_channels_and_unknown_ones_are_refused():
    assert task().targets(np.array([0, 4, 1], np.uint8)).tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match=r"label value 7.*kind\.segmentation\.classes"):
        task().targets(np.array([0, 7], np.uint8))


@pytest.mark.parametrize("classes", [{0: "air", 1: "grey"}, {300: "grey"}, {1: "grey", 2: "grey"}, {0: "background"}, {}])
def test_wrong_classes_are_refused(classes):
    with pytest.raises(ValidationError):
        task(classes=classes)


def test_background_may_be_named():
    assert task(classes={0: "background", 2: "x"}).values == (0, 2)


def test_soft_dice_by_hand():
    labels = torch.tensor([0, 1, 1, 2]).reshape(1, 1, 1, 4)
    probabilities = torch.tensor([[0.6, 0.2, 0.0, 0.5], [0.4, 0.8, 0.5, 0.0], [0.0, 0.0, 0.5, 0.5]]).reshape(1, 3, 1, 1, 4)
    first = 2 * (0.8 + 0.5) / (0.4 + 0.8 + 0.5 + 2)
    second = 2 * 0.5 / (0.5 + 0.5 + 1)
    assert soft_dice_loss(probabilities, labels).item() == pytest.approx(1 - (first + second) / 2, abs=1e-4)


def test_an_absent_class_has_no_part_in_dice_and_all_absent_is_zero():
    logits = torch.randn(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    assert soft_dice_loss(logits.softmax(1), labels).item() == 0
    assert torch.allclose(task().loss(logits, labels), F.cross_entropy(logits, labels))
    labels[0, 0] = 1
    alone = soft_dice_loss(logits.softmax(1)[:, :2], labels)
    assert torch.allclose(soft_dice_loss(logits.softmax(1), labels), alone)


def test_dice_ce_is_the_sum_and_is_finite_in_bf16():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 4, 4, 4, generator=generator).requires_grad_()
    labels = torch.randint(0, 3, (2, 4, 4, 4), generator=generator)
    parts = [task(loss=name).loss(logits, labels) for name in ("dice", "cross_entropy")]
    assert torch.allclose(task().loss(logits, labels), sum(parts))
    loss = task().loss(logits.to(torch.bfloat16), labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(logits.grad).all()


def test_descending_the_loss_learns_a_toy_volume():
    labels = torch.zeros(1, 6, 6, 6, dtype=torch.int64)
    labels[0, 1:4, 1:4, 1:4], labels[0, 4:, 4:, 4:] = 1, 2
    logits = torch.zeros(1, 3, 6, 6, 6, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.5)
    for _ in range(30):
        optimiser.zero_grad()
        task().loss(logits, labels).backward()
        optimiser.step()
    assert (logits.argmax(1) == labels).all()


def test_windows_cover_an_axis_and_end_at_its_end():
    assert starts(10, 4, 0.5) == [0, 2, 4, 6]
    assert starts(9, 4, 0.5) == [0, 2, 4, 5]
    assert starts(4, 4, 0.5) == [0]


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
@pytest.mark.parametrize("shape", [(5, 20, 11), (16, 9, 8)])
def test_a_voxelwise_network_gives_the_same_in_windows_as_at_once(kind, shape):
    voxels = torch.rand(2, *shape, generator=torch.Generator().manual_seed(2))
    network = nn.Conv3d(2, 3, 1)
    with torch.no_grad():
        whole = network(voxels[None])[0]
    assert torch.allclose(sliding(network, voxels, (8, 8, 8), 0.5, kind, batch=3), whole, atol=1e-5)


def test_windows_agree_with_monai():
    inferers = pytest.importorskip("monai.inferers")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1)).eval()
    voxels = torch.rand(1, 21, 7, 17)
    for ours, theirs in (("uniform", "constant"), ("gaussian", "gaussian")):
        with torch.no_grad():
            expected = inferers.sliding_window_inference(voxels[None], (8, 8, 8), 2, network, overlap=0.5, mode=theirs)[0]
        found = sliding(network, voxels, (8, 8, 8), 0.5, ours, batch=2)
        assert (found - expected).abs().max() < (1e-5 if ours == "uniform" else 0.02)
        assert (found.argmax(0) == expected.argmax(0)).float().mean() > (0.9999 if ours == "uniform" else 0.98)


def test_a_prediction_holds_label_values_on_the_grid_of_the_volume():
    kind = task()
    voxels = torch.rand(1, 9, 12, 8, generator=torch.Generator().manual_seed(3))
    found = kind.predict(lambda x: torch.cat([torch.zeros_like(x), x - 0.5, x - 0.9 + (x > 0.9) * 9], 1), voxels, (8, 8, 8))
    expected = np.where(voxels[0] > 0.9, 4, np.where(voxels[0] > 0.5, 1, 0))
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
