"""Views from graphs: one capture a shape, no result that a later step overwrites, and plain calls where a view cannot be captured.

A CPU has no CUDA graphs, so a capture on memory of its own stands in for one; ``benchmarks/device/parity.py`` compares the bits on a GPU.
"""

import pytest
import torch

from pipeline.keys import fold
from pipeline.nested import mapped, tensors
from pipeline.plugins import load, names, settings
from pipeline.step import Context, Ids, Region
from pipeline.training.graphs import MOST_SHAPES, Replayed

SIZE = (12, 10, 8)


class Kept:
    """Reads and writes the very same memory at each call, as a CUDA graph does."""

    captures = 0

    def __init__(self, work, value):
        Kept.captures += 1
        self.work, self.given = work, mapped(torch.Tensor.clone, value)
        self.made = work(self.given)

    def __call__(self, value):
        mapped(torch.Tensor.copy_, self.given, value)
        mapped(torch.Tensor.copy_, self.made, self.work(self.given))
        return mapped(torch.Tensor.clone, self.made)


@pytest.fixture(autouse=True)
def counted():
    Kept.captures = 0


def region_of(batch, first, extent):
    voxels = torch.randint(-1000, 1000, (batch, 1, *extent), generator=torch.Generator().manual_seed(first), dtype=torch.int16)
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)).repeat(batch, 1, 1)
    inside = torch.tensor([[0, n - first % 3] for n in extent]).repeat(batch, 1, 1)
    window = torch.tensor([-1000.0, 1000.0]).repeat(batch, 1, 1)
    numbers = torch.arange(first, first + batch)
    return Region(voxels, window, affine, affine, inside, Ids(numbers, numbers, numbers), None, SIZE)


def work_of(name, values):
    view = load("views", name)(settings("views", name, values), Context(8, 4, 10, SIZE, 1))

    def work(region):
        return {"seen": view.apply(region, view.draw(fold(region.ids.sample, "seen"), region))}

    return view, work


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.parametrize("name", names("views"))
def test_a_replayed_view_is_the_plain_one_for_every_batch_and_outlives_the_next_one(name):
    view, work = work_of(name, {"elastic": 1.0} if name == "corrupt" else {})
    replayed = Replayed(work, pytest.fail, Kept)
    regions = [region_of(2, first, view.extent_vox()) for first in (0, 7, 40)]
    shown = [replayed(region) for region in regions]
    assert Kept.captures == 1
    for region, found in zip(regions, shown, strict=True):
        assert same(found, work(region))
    assert not torch.equal(shown[0]["seen"][0].voxels, shown[1]["seen"][0].voxels)


def test_each_shape_of_a_batch_is_captured_once_and_too_many_are_not():
    view, work = work_of("clean", {})
    replayed = Replayed(work, pytest.fail, Kept)
    for batch in (1, 2, 3, 2, 1, *range(1, MOST_SHAPES + 3)):
        region = region_of(batch, batch, view.extent_vox())
        assert same(replayed(region), work(region))
    assert Kept.captures == MOST_SHAPES


def test_a_view_that_cannot_be_captured_is_computed_as_it_is_and_said_once():
    view, work = work_of("clean", {})
    said = []

    def refusing(work, value):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    replayed = Replayed(work, said.append, refusing)
    for first in (0, 1, 2):
        region = region_of(2, first, view.extent_vox())
        assert same(replayed(region), work(region))
    assert said == ["training.graphs: views are computed without CUDA graphs: operation not permitted when stream is capturing"]


def test_on_a_cpu_nothing_is_captured():
    view, work = work_of("clean", {})
    replayed = Replayed(work, pytest.fail)
    region = region_of(2, 0, view.extent_vox())
    assert same(replayed(region), work(region))
    assert not replayed.graphs
