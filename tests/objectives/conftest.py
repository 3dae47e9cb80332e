"""A small U-Net and a synthetic step of two subjects or more, as the learner would hand it to an objective."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from pipeline.keys import fold, initialise, noise, uniform
from pipeline.plugins import load, settings
from pipeline.step import Context, Ids, Places, Step, ViewBatch

SIZE = (8, 12, 8)
VIEW = "shown"
EVERYTHING = frozenset({"pooled", "levels", "dense"})
WORDS = (3, 5, 9)


@pytest.fixture(scope="session")
def lexicon():
    """Three words in four scans, as ``discover`` writes them."""
    rows = [
        {
            "word_id": word,
            "scan_id": f"scan{scan:012d}",
            "x_mm": 4.0 + word,
            "y_mm": 6.0,
            "z_mm": 8.0,
            "size_mm": 12.0,
            "confidence": 0.5 + scan / 10,
            "split": "validation" if scan == 3 else "train",
        }
        for word in WORDS
        for scan in range(4)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def context(lexicon):
    base = Context(num_scans=20, batch=4, num_steps=30, size_vox=SIZE, channels=1, lexicon=lexicon)
    network = make_network(base)
    return replace(base, widths=network.widths, geometry=network.geometry)


def make_network(context):
    network = load("networks", "unet")(settings("networks", "unet", {"widths": [4, 8, 12]}), context)
    initialise(network, 0)
    return network


@pytest.fixture
def network(context):
    return make_network(context)


@pytest.fixture
def make():
    """name, context, settings -> the objective with initial weights of seed 0, its averaged heads beside their own."""

    def build(name, context, **values):
        objective = load("objectives", name)(settings("objectives", name, {"view": VIEW, **values}), context)
        initialise(objective, 0)
        for own, averaged in objective.pairs():
            averaged.load_state_dict(own.state_dict())
        return objective

    return build


@pytest.fixture
def make_views():
    """Crops of one view: smooth content, a box of it replaced by noise; ``constant`` crops show nothing at all."""

    def views(num_crops=1, batch=4, seed=0, constant=False):
        found = []
        for crop in range(num_crops):
            keys = fold(torch.arange(batch) + 100 * seed, f"crop{crop}")
            phase = uniform(fold(torch.arange(batch) + 100 * seed, "phase"), 3)
            axes = [torch.linspace(0, 3, n) for n in SIZE]
            waves = [torch.sin(axis + 6 * phase[:, a, None]) for a, axis in enumerate(axes)]
            target = 0.5 + 0.2 * (waves[0][:, :, None, None] + waves[1][:, None, :, None] * waves[2][:, None, None, :])[:, None]
            altered = torch.zeros(batch, *SIZE, dtype=torch.bool)
            altered[:, 2:6, 3:9, 2:6] = True
            voxels = torch.where(altered[:, None], noise(keys, 1, *SIZE), target)
            if constant:
                voxels, target = torch.zeros_like(voxels), torch.zeros_like(target)
            valid = torch.ones(batch, *SIZE, dtype=torch.bool)
            valid[:, 0] = False
            affine = torch.eye(4, dtype=torch.float64).repeat(batch, 1, 1) * torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)
            affine[:, :3, 3] = 10 * phase.double()
            answers = {"visible": torch.full((batch,), 0.8)}
            found.append(ViewBatch(voxels, affine, valid, target, altered, altered, "none", None, answers))
        return tuple(found)

    return views


@pytest.fixture
def make_step(make_views):
    """network, crops a sample -> Step; the teacher is the network itself, without gradients."""

    def step(network, num_crops=1, batch=4, seed=0, constant=False, bf16=False):
        views = make_views(num_crops, batch, seed, constant)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            student = tuple(network(v.voxels, v.hidden, v.hide, EVERYTHING) for v in views)
            with torch.no_grad():
                teacher = tuple(network(v.voxels, v.hidden, v.hide, EVERYTHING) for v in views)
        sample = torch.arange(batch) + 100 * seed
        centre = torch.einsum("bij,j->bi", views[0].affine[:, :3], torch.tensor([4.0, 6.0, 4.0, 1.0], dtype=torch.float64))
        word = torch.tensor(WORDS)[torch.arange(batch) % len(WORDS)]
        places = Places(
            mm=centre[:, None],
            word=word[:, None],
            size_mm=torch.full((batch, 1), 12.0),
            confidence=torch.full((batch, 1), 0.9),
            valid=torch.ones(batch, 1, dtype=torch.bool),
        )
        body = torch.diag(torch.tensor([1 / 40, 1 / 50, 1 / 60, 1.0], dtype=torch.float64)).repeat(batch, 1, 1)
        ids = Ids(sample, torch.arange(batch) % 4, torch.arange(batch) % 4 + 4 * seed)
        return Step({VIEW: views}, {VIEW: student}, {VIEW: teacher}, ids, places, body, keys=sample)

    return step
