"""What every view promises, whatever its file is called."""

import sys
from dataclasses import fields

import pytest
import torch

from pipeline import plugins
from pipeline.step import Ids, Places, Region

ELASTIC = ("corrupt", {"elastic": 0.7})
NOT_ELASTIC_TARGET = ("corrupt", {"elastic": 0.7, "elastic_target": False, "fill": "constant"})
TRANSVW = (
    "corrupt",
    {"one_of": True, "non_linear": 0.25, "shuffle": 0.25, "in_painting": 0.25, "out_painting": 0.25, "elastic": 1.0, "elastic_axes": 2},
)
FEW_BOXES = ("corrupt", {"shuffle": 1.0, "shuffle_share": 0.02, "in_painting": 1.0, "out_painting": 0.0})
COARSE = ("augment", {"flip": True, "low_resolution": 1.0, "num_views": 3})
SPARSE = ("masked", {"hide": "sparse", "block_vox": [5, 8, 4]})
CASES = [*((name, {}) for name in plugins.names("views")), ELASTIC, NOT_ELASTIC_TARGET, TRANSVW, FEW_BOXES, COARSE, SPARSE]

every_view = pytest.mark.parametrize(
    ("name", "values"), CASES, ids=[f"{name}-{'-'.join(values) or 'default'}"[:40] for name, values in CASES]
)


def tensors(view):
    found = {item.name: getattr(view, item.name) for item in fields(view)} | dict(view.answers)
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def assert_same(first, second, atol=0.0):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        ones, others = tensors(one), tensors(other)
        assert ones.keys() == others.keys()
        for name, value in ones.items():
            assert value.dtype == others[name].dtype
            torch.testing.assert_close(
                value, others[name], rtol=0.0, atol=atol if value.is_floating_point() else 0.0, msg=lambda m, n=name: f"{n}: {m}"
            )


@every_view
def test_a_view_is_finite_in_range_and_of_the_crops_shape(name, values, make_region, make_view, keys_of):
    view, region = make_view(name, channels=2, **values), make_region(channels=2)
    shown = view.apply(region, view.draw(keys_of(0, 1, 2, 3), region))
    for one in shown:
        assert one.voxels.shape == (4, 2, *region.size_vox)
        assert one.voxels.dtype == torch.float32
        assert one.voxels.is_contiguous()
        assert bool(torch.isfinite(one.voxels).all())
        assert float(one.voxels.min()) >= 0.0
        assert float(one.voxels.max()) <= 1.0
        assert one.valid.shape == (4, *region.size_vox)
        assert one.valid.dtype == torch.bool
        assert one.affine.dtype == torch.float64
        assert one.answers["visible"].shape == (4,)
        if one.target is not None:
            assert one.target.shape == one.voxels.shape
            assert one.altered.shape == one.valid.shape
            assert one.target.data_ptr() != one.voxels.data_ptr()


@every_view
def test_a_view_leaves_the_region_and_its_draws_alone_and_gives_the_same_again(name, values, make_region, make_view, keys_of):
    view, region = make_view(name, **values), make_region()
    drawn = view.draw(keys_of(0, 1, 2, 3), region)
    before = {key: value.clone() for key, value in drawn.items()}
    first = view.apply(region, drawn)
    assert_same(first, view.apply(region, drawn))
    for key, value in before.items():
        assert torch.equal(value, drawn[key]), key
    untouched = make_region()
    for part in ("voxels", "window", "affine", "inside"):
        assert torch.equal(getattr(region, part), getattr(untouched, part)), part


@every_view
def test_a_larger_margin_changes_nothing(name, values, make_region, make_view, keys_of):
    view, keys = make_view(name, **values), keys_of(0, 1, 2, 3)
    extent = view.extent_vox()
    assert all(n + 24 >= wanted for n, wanted in zip(make_region().size_vox, extent, strict=True))
    for margin in (12, 19):
        narrow, wide = (
            make_region(margin=max(m - n for m, n in zip(extent, make_region().size_vox, strict=True)) // 2),
            make_region(margin=margin),
        )
        assert_same(view.apply(narrow, view.draw(keys, narrow)), view.apply(wide, view.draw(keys, wide)), atol=1e-5)


@pytest.fixture(params=["one by one", "in groups of three"])
def either_way(request, monkeypatch):
    """Samples go together if they are small."""
    monkeypatch.setattr("pipeline.views._walk.SMALL_VOX", 0 if request.param == "one by one" else 1 << 20)
    monkeypatch.setattr("pipeline.views._walk.GROUP_VOX", 3 * 40 * 48 * 36)


@every_view
def test_a_sample_is_the_same_alone_and_in_any_batch(either_way, name, values, make_region, make_view, keys_of, sample_of):
    view, region = make_view(name, **values), make_region(inside=(30, 44))
    region.affine[1] = make_region(oblique=True).affine[1]
    batch = view.apply(region, view.draw(keys_of(5, 6, 7, 8), region))
    third = sample_of(region, 2)
    alone = view.apply(third, view.draw(keys_of(7), third))
    for whole, one in zip(batch, alone, strict=True):
        for part, value in tensors(one).items():
            assert torch.equal(value[0], tensors(whole)[part][2]), part


@every_view
def test_another_key_draws_another_view_where_there_is_anything_to_draw(name, values, make_region, make_view, keys_of):
    view, region = make_view(name, **values), make_region()
    first, other = (view.apply(region, view.draw(keys_of(*numbers), region))[0].voxels for numbers in ((0, 1, 2, 3), (4, 5, 6, 7)))
    assert torch.equal(first, other) == (name == "clean" or (name, values) == SPARSE)


@every_view
def test_one_sample_at_a_time_equals_the_whole_batch_as_on_a_gpu(either_way, name, values, make_region, make_view, keys_of, monkeypatch):
    view, region = make_view(name, channels=2, **values), make_region(channels=2, inside=(30, 44))
    region.affine[1:3] = make_region(channels=2, oblique=True).affine[1:3]  # straight scans may go another way than turned ones
    keys = keys_of(*range(10, 14))
    on_a_cpu = view.apply(region, view.draw(keys, region))
    for module in [module for place, module in sys.modules.items() if place.startswith("pipeline.") and hasattr(module, "on_host")]:
        monkeypatch.setattr(module, "on_host", lambda tensor: False)
    on_a_gpu = view.apply(region, view.draw(keys, region))
    assert_same(on_a_cpu, on_a_gpu, atol=2e-6 if "elastic" not in values else 2e-5)


@every_view
def test_shapes_are_static_and_no_value_is_looked_at_off_the_cpu(name, values, make_view):
    """The meta device has shapes and no values: .item(), nonzero or a copy to the host would raise."""
    view = make_view(name, channels=2, **values)
    z = torch.zeros(3, 1, device="meta")
    extent = tuple(n + 4 for n in view.extent_vox())
    region = Region(
        voxels=torch.zeros(3, 2, *extent, dtype=torch.int16, device="meta"),
        window=torch.zeros(3, 2, 2, device="meta"),
        affine=torch.zeros(3, 4, 4, dtype=torch.float64, device="meta"),
        body=torch.zeros(3, 4, 4, dtype=torch.float64, device="meta"),
        inside=torch.zeros(3, 3, 2, dtype=torch.int64, device="meta"),
        ids=Ids(z, z, z),
        places=Places(z, z, z, z, z),
        size_vox=(16, 24, 12),
    )
    for shown in view.apply(region, view.draw(torch.zeros(3, dtype=torch.int64, device="meta"), region)):
        assert shown.voxels.shape == (3, 2, 16, 24, 12)
        assert {tensor.device.type for tensor in tensors(shown).values()} == {"meta"}


@every_view
def test_the_affine_leads_to_the_voxels_that_are_shown(name, values, make_region, make_view, keys_of):
    """Every voxel of a volume holds its own place, so that a view says by its content where it was taken from."""
    view = make_view(
        name,
        **(values | {"non_linear": 0, "shuffle": 0, "in_painting": 0, "out_painting": 0, "one_of": False} if name == "corrupt" else values),
    )
    if name == "augment":
        view = make_view(name, **(values | {"gamma": 0, "contrast": 0, "brightness": 0, "noise": 0, "blur": 0, "low_resolution": 0}))
    for axis in range(3):
        region = make_region(oblique=axis != 2)
        index = torch.arange(region.voxels.shape[axis + 2], dtype=torch.int16) * 20
        region.voxels.copy_(index.reshape([-1 if a == axis + 2 else 1 for a in range(5)]).expand(region.voxels.shape))
        region.window.copy_(torch.tensor([0.0, 2000.0]))
        for shown in view.apply(region, view.draw(keys_of(0, 1, 2, 3), region)):
            there = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in region.size_vox], indexing="ij")).to(torch.float64)
            world = torch.einsum("bij,jdhw->bidhw", shown.affine[:, :3, :3], there) + shown.affine[:, :3, 3, None, None, None]
            if shown.warp_mm is not None:
                world = world + shown.warp_mm
            back = torch.linalg.inv(region.affine)
            found = torch.einsum("bij,bjdhw->bidhw", back[:, :3, :3], world) + back[:, :3, 3, None, None, None]
            held = (shown.voxels[:, 0] * 100).to(torch.float64)
            visible = ~shown.altered if shown.altered is not None and shown.warp_mm is None else torch.ones_like(shown.valid)
            assert float((held - found[:, axis])[visible].abs().max()) < 1e-2


@pytest.mark.parametrize("name", plugins.names("views"))
def test_every_setting_says_what_it_is(name):
    for key, item in plugins.load("views", name).Config.model_fields.items():
        assert item.description, f"{name}.{key}"
