import pytest
import torch
from pydantic import ValidationError

OFF = {"non_linear": 0.0, "shuffle": 0.0, "in_painting": 0.0, "out_painting": 0.0}
FOUR = tuple(OFF)


@pytest.fixture
def corrupted(make_region, make_view, keys_of):
    def make(samples=range(24), channels=1, size=(16, 24, 12), **values):
        region = make_region(batch=len(samples), channels=channels, size=size)
        view = make_view("corrupt", size=size, channels=channels, **values)
        drawn = view.draw(keys_of(*samples), region)
        (shown,) = view.apply(region, drawn)
        (clean,) = make_view("clean", size=size, channels=channels).apply(region, {})
        return shown, drawn, clean

    return make


def test_at_probability_zero_nothing_changes(corrupted):
    shown, _, clean = corrupted(**OFF)
    assert torch.equal(shown.voxels, clean.voxels)
    assert torch.equal(shown.target, clean.voxels)
    assert not bool(shown.altered.any())
    assert shown.answers["visible"].tolist() == [1.0] * 24
    assert shown.warp_mm is None


def test_the_target_is_the_clean_crop_whatever_was_done_to_the_input(corrupted):
    shown, _, clean = corrupted(non_linear=1.0, shuffle=1.0, in_painting=0.5, out_painting=0.5)
    assert torch.equal(shown.target, clean.voxels)
    assert bool(shown.altered.any((1, 2, 3)).all())
    assert torch.equal(shown.altered, ((shown.voxels - shown.target).abs() > 1e-6)[:, 0])


def test_each_transform_comes_as_often_as_its_probability(make_region, make_view, keys_of):
    view, region = make_view("corrupt", elastic=0.3), make_region(batch=1)
    drawn = view.draw(keys_of(*range(4000)), region)
    often = {name: float(drawn[name].float().mean()) for name in (*FOUR, "elastic")}
    assert often == pytest.approx({"non_linear": 0.9, "shuffle": 0.5, "in_painting": 0.18, "out_painting": 0.72, "elastic": 0.3}, abs=0.025)
    assert not bool((drawn["in_painting"] & drawn["out_painting"]).any())
    both = (drawn["shuffle"] & drawn["out_painting"]).float().mean()
    assert float(both) == pytest.approx(0.36, abs=0.025)


def test_with_one_of_exactly_one_of_the_four_is_done(make_region, make_view, keys_of):
    view, region = make_view("corrupt", one_of=True, **dict.fromkeys(FOUR, 0.25)), make_region(batch=1)
    drawn = view.draw(keys_of(*range(2000)), region)
    chosen = torch.stack([drawn[name] for name in FOUR], 1)
    assert torch.equal(chosen.sum(1), torch.ones(2000, dtype=torch.int64))
    assert chosen.float().mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_one_setting_changes_no_draw_of_another(corrupted):
    plain, first, _ = corrupted(elastic=0.5)
    other, second, _ = corrupted(elastic=0.5, shuffle=0.0, elastic_mean_mm=1.0)
    for name in first.keys() - {"shuffle"}:
        assert torch.equal(first[name], second[name]), name
    same = ~first["shuffle"] & ~first["elastic"]
    assert torch.equal(plain.voxels[same], other.voxels[same])


def test_half_of_the_intensity_maps_fall(corrupted):
    shown, _, _ = corrupted(samples=range(100), **(OFF | {"non_linear": 1.0}))
    signs = torch.stack(
        [torch.corrcoef(torch.stack([v.flatten(), t.flatten()]))[0, 1] for v, t in zip(shown.voxels, shown.target, strict=True)]
    ).sign()
    assert float((signs < 0).float().mean()) == pytest.approx(0.5, abs=0.15)
    assert shown.answers["visible"].tolist() == [1.0] * 100


def test_shuffling_keeps_the_histogram_of_every_channel(corrupted):
    shown, _, _ = corrupted(channels=2, **(OFF | {"shuffle": 1.0}))
    assert torch.equal(shown.voxels.flatten(2).sort().values, shown.target.flatten(2).sort().values)
    assert 0.5 < float(shown.altered.float().mean()) < 0.8


def test_in_painting_hides_what_it_says(corrupted):
    shown, drawn, _ = corrupted(size=(24, 24, 24), **(OFF | {"in_painting": 1.0}))
    hidden = 1 - shown.answers["visible"]
    torch.testing.assert_close(shown.altered.float().mean((1, 2, 3)), hidden, rtol=0, atol=2e-4)
    assert 0.02 < float(hidden.mean()) < 0.1
    low, high = drawn["over_low"][0, 0], drawn["over_high"][0, 0]
    inside = shown.voxels[0, 0][tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
    assert float(inside.mean()) == pytest.approx(0.5, abs=0.1)


def test_out_painting_leaves_only_its_windows(corrupted):
    shown, drawn, _ = corrupted(size=(24, 24, 24), **(OFF | {"out_painting": 1.0}))
    visible = shown.answers["visible"]
    torch.testing.assert_close(1 - shown.altered.float().mean((1, 2, 3)), visible, rtol=0, atol=5e-4)
    assert float(visible.min()) > 0.1
    assert float(visible.max()) < 0.5
    low, high = drawn["kept_low"][0, 0], drawn["kept_high"][0, 0]
    window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    assert torch.equal(shown.voxels[0, 0][window], shown.target[0, 0][window])


def test_a_constant_fill_is_one_value_a_channel(corrupted):
    shown, _, _ = corrupted(channels=2, fill="constant", **(OFF | {"out_painting": 1.0}))
    for row in range(4):
        for channel in range(2):
            filled = shown.voxels[row, channel][shown.altered[row]]
            assert int((filled != filled.mode().values).sum()) <= 0.01 * len(filled)


def test_elastic_moves_the_target_too_unless_it_is_to_be_undone(corrupted):
    both, _, clean = corrupted(elastic=1.0, **OFF)
    assert torch.equal(both.voxels, both.target)
    assert float((both.target - clean.voxels).abs().mean()) > 0.003
    only, _, _ = corrupted(elastic=1.0, elastic_target=False, **OFF)
    assert torch.equal(only.target, clean.voxels)
    assert torch.equal(only.voxels, both.voxels)
    assert float(only.altered.float().mean()) > 0.5
    assert torch.equal(only.warp_mm, both.warp_mm)
    assert float(both.warp_mm.norm(dim=1).mean()) == pytest.approx(2.0, rel=0.25)


def test_displaced_places_outside_the_volume_are_not_valid(make_region, make_view, keys_of):
    view, region = make_view("corrupt", elastic=1.0, elastic_mean_mm=3.0, **OFF), make_region(inside=(30, 50))
    (shown,) = view.apply(region, view.draw(keys_of(0, 1, 2, 3), region))
    flat = make_view("clean").apply(region, {})[0].valid
    assert bool((shown.valid != flat).any())
    place = shown.warp_mm[:, 0] / 1.0 + torch.arange(16).reshape(1, -1, 1, 1) + 28
    assert not bool((shown.valid & ((place < 29.49) | (place > 49.51))).any())
    assert torch.equal(shown.answers["visible"], shown.valid.float().mean((1, 2, 3)))


def test_the_margin_is_read_only_where_something_moves(make_view):
    assert make_view("corrupt").extent_vox() == (16, 24, 12)
    assert make_view("corrupt", elastic=0.1, elastic_margin_vox=5).extent_vox() == (26, 34, 22)
    assert make_view("corrupt", elastic=0.1, elastic_margin_vox=5, elastic_axes=2).extent_vox() == (26, 34, 12)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"one_of": True}, "one_of"),
        ({"in_painting": 0.6, "out_painting": 0.6}, "in_painting, out_painting"),
        ({"in_painting_side": [0.5, 0.2]}, "in_painting_side"),
        ({"shufle": 0.5}, "shufle"),
        ({"elastic": 1.5}, "elastic"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(make_view, values, named):
    with pytest.raises(ValidationError, match=named):
        make_view("corrupt", **values)
