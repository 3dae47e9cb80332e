from dataclasses import replace

import pytest
import torch

from pipeline import plugins
from pipeline.keys import fold
from pipeline.step import Context, Ids, Places, Region, View

SIZE = (16, 24, 12)
SPACING = (1.0, 1.5, 2.0)
VOLUME = 72
CENTRE = 36


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch):
    """The crops of the tests are small, and stand for large ones."""
    monkeypatch.setattr("pipeline.views._walk.SMALL_VOX", 0)


@pytest.fixture
def make_region():
    """Regions around the same place of the same made-up volumes, with any margin."""

    def make(margin: int = 12, batch: int = 4, channels: int = 1, size=SIZE, oblique: bool = False, inside=(0, VOLUME)) -> Region:
        generator = torch.Generator().manual_seed(7)
        coarse = torch.rand(min(batch, 4), channels, 18, 18, 18, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(VOLUME,) * 3, mode="trilinear")
        volume = (smooth * 2400 - 1200 + 40 * torch.rand(smooth.shape, generator=generator)).to(torch.int16)
        affine = torch.diag(torch.tensor([*SPACING, 1.0], dtype=torch.float64)).repeat(batch, 1, 1)
        if oblique:
            cos, sin = torch.cos(torch.tensor(0.2, dtype=torch.float64)), torch.sin(torch.tensor(0.2, dtype=torch.float64))
            turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float64)
            affine[:, :3, :3] = turn @ affine[:, :3, :3]
        affine[:, :3, 3] = torch.arange(batch, dtype=torch.float64)[:, None] * 10 + torch.tensor([3.0, -20.0, 40.0], dtype=torch.float64)
        shape = [n + 2 * margin for n in size]
        low = torch.tensor([CENTRE - n // 2 for n in shape])
        cut = volume[(..., *(slice(int(a), int(a) + n) for a, n in zip(low, shape, strict=True)))]
        cut = cut[torch.arange(batch) % 4].contiguous()
        affine[:, :3, 3] += affine[:, :3, :3] @ low.to(torch.float64)
        bounds = torch.stack([torch.full((3,), inside[0]) - low, torch.full((3,), inside[1]) - low], 1)
        none = torch.zeros(batch, 1)
        return Region(
            voxels=cut,
            window=torch.tensor([-1000.0, 1000.0]).repeat(batch, channels, 1),
            affine=affine,
            body=torch.eye(4, dtype=torch.float64).repeat(batch, 1, 1),
            inside=bounds.repeat(batch, 1, 1),
            ids=Ids(*[torch.arange(batch)] * 3),
            places=Places(torch.zeros(batch, 1, 3), none.long(), none, none, none.bool()),
            size_vox=tuple(size),
        )

    return make


@pytest.fixture
def make_view():
    def make(name: str, size=SIZE, channels: int = 1, **values) -> View:
        context = Context(num_scans=10, batch=4, num_steps=100, size_vox=tuple(size), channels=channels)
        return plugins.load("views", name)(plugins.settings("views", name, values), context)

    return make


@pytest.fixture
def keys_of():
    def keys(*samples: int):
        return fold(torch.tensor(samples), "tests")

    return keys


@pytest.fixture
def sample_of():
    def one(region: Region, b: int) -> Region:
        part = slice(b, b + 1)
        return replace(
            region, voxels=region.voxels[part], window=region.window[part], affine=region.affine[part], inside=region.inside[part]
        )

    return one
