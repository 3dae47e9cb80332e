"""Clean crops, intensity curves, boxes, shuffling, elastic fields, noise: each by its property."""

import math

import pytest
import torch

from pipeline.views import _boxes, _curves, _elastic, _noise
from pipeline.views._shuffle import Shuffle


def test_a_clean_crop_is_the_normalised_middle_of_the_region(make_region, make_view):
    region = make_region(margin=5)
    (shown,) = make_view("clean").apply(region, {})
    stored = region.voxels[:, :, 5:-5, 5:-5, 5:-5].to(torch.float32)
    torch.testing.assert_close(shown.voxels, ((stored + 1000) / 2000).clamp(0, 1))
    corner = region.affine[1] @ torch.tensor([5.0, 5.0, 5.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(shown.affine[1, :, 3], corner)
    assert bool(shown.valid.all())
    assert shown.answers["visible"].tolist() == [1.0] * 4


def test_padding_is_neither_valid_nor_visible(make_region, make_view):
    region = make_region(inside=(36, 72))  # the crop's middle is index 36, so half of each axis is padding
    (shown,) = make_view("clean").apply(region, {})
    assert shown.answers["visible"].tolist() == pytest.approx([1 / 8] * 4)
    assert bool(shown.valid[:, 8:, 12:, 6:].all())
    assert not bool(shown.valid[:, :8].any())


def bezier(t, x1, y1, x2, y2):
    return 3 * (1 - t) ** 2 * t * x1 + 3 * (1 - t) * t**2 * x2 + t**3, 3 * (1 - t) ** 2 * t * y1 + 3 * (1 - t) * t**2 * y2 + t**3


def test_curves_are_the_bezier_curves_of_their_control_points(keys_of):
    from pipeline.keys import uniform

    control = uniform(keys_of(*range(64)), 1, 4)
    table = _curves.curves(control, torch.zeros(64, 1, dtype=torch.bool))
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    for row in range(64):
        x, y = bezier(t, *control[row, 0].to(torch.float64))
        bent = _curves.bend(x.to(torch.float32).reshape(1, 1, 1, 1, -1), table[row : row + 1]).flatten()
        # near a vertical piece a small step in x is a large one in y: the error is one of place
        assert float((bent - y).abs().median()) < 1e-4
        assert float((bent - y).abs().max()) < 2e-2


def test_a_straight_curve_is_the_identity_and_an_inverted_one_its_mirror_image():
    control = torch.tensor([1 / 3, 1 / 3, 2 / 3, 2 / 3]).expand(2, 1, 4)
    table = _curves.curves(control, torch.tensor([[False], [True]]))
    x = torch.rand(2, 1, 4, 5, 6)
    bent = _curves.bend(x, table)
    torch.testing.assert_close(bent[0], x[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(bent[1], 1 - x[1], rtol=0, atol=1e-5)


def test_curves_are_monotone_and_each_channel_has_its_own(keys_of):
    from pipeline.keys import uniform

    control = uniform(keys_of(*range(100)), 2, 4)
    invert = torch.arange(200).reshape(100, 2) % 3 == 0
    ramp = torch.linspace(0, 1, 5000).reshape(1, 1, 1, 1, -1).repeat(100, 2, 1, 1, 1)
    slope = _curves.bend(ramp, _curves.curves(control, invert)).diff(dim=-1)[:, :, 0, 0]
    assert float(slope[~invert].min()) >= -1e-6
    assert float(slope[invert].max()) <= 1e-6
    assert float(slope[~invert].sum(-1).min()) > 0.999


def test_shuffling_permutes_voxels_inside_their_boxes_and_nowhere_else(keys_of):
    size = (16, 24, 12)
    shuffle = Shuffle(size, side=0.25, share=0.7)
    drawn = shuffle.draw(keys_of(1, 2, 3))
    source = shuffle.source(**drawn)
    (_, own_d, _, _), (_, own_h, _, _), (_, own_w, _, _) = shuffle.tiling(drawn["order"])
    box = (own_d[:, :, None, None] * 100 + own_h[:, None, :, None]) * 100 + own_w[:, None, None, :]
    for row in range(3):
        flat = source[row].flatten()
        assert torch.equal(flat.sort().values, torch.arange(math.prod(size), dtype=torch.int32))
        assert torch.equal(box[row].flatten()[flat], box[row].flatten())
    values = torch.rand(3, 2, *size)
    shuffled = shuffle.apply(values, **drawn)
    assert torch.equal(shuffled.flatten(2).sort().values, values.flatten(2).sort().values)
    assert torch.equal(shuffled.flatten(2)[1, 1], values.flatten(2)[1, 1][source[1].flatten().long()])


@pytest.mark.parametrize("size", [(16, 24, 12), (32, 48, 32), (9, 5, 40)])
def test_boxes_tile_the_crop_in_pieces_of_every_allowed_length(size, keys_of):
    shuffle = Shuffle(size, side=0.15, share=1.0)
    for (length, owner, inner, low), whole, longest in zip(
        shuffle.tiling(shuffle.draw(keys_of(*range(20)))["order"]), size, shuffle.sides, strict=True
    ):
        assert length.sum(1).tolist() == [whole] * 20
        assert int(length.max()) == longest == min(whole, max(2, int(whole * 0.15)))
        assert torch.equal(low + inner, torch.arange(whole).expand(20, -1))
        assert bool((inner < length.gather(1, owner)).all())


@pytest.mark.parametrize("share", [0.25, 0.8, 1.0])
def test_the_shuffled_share_is_as_set(share, keys_of):
    size = (32, 48, 32)
    shuffle = Shuffle(size, side=0.25, share=share)  # large boxes, so that hardly a voxel is permuted onto itself
    source = shuffle.source(**shuffle.draw(keys_of(*range(40)))).flatten(1)
    moved = (source != torch.arange(math.prod(size), dtype=torch.int32)).float().mean()
    assert share * 0.9 < float(moved) <= share * 1.02


def test_a_shuffled_voxel_comes_from_anywhere_in_its_box(keys_of):
    shuffle = Shuffle((4, 4, 4), side=1.0, share=1.0)
    shuffle.pieces = [torch.tensor([4])] * 3
    shuffle._tables[torch.device("cpu")] = (*shuffle._tables[torch.device("cpu")][:2], *shuffle.pieces)
    source = shuffle.source(**shuffle.draw(keys_of(*range(4000)))).flatten(1)
    seen = torch.bincount(source[:, 21].long(), minlength=64).float() / 4000
    assert float(seen.min()) > 0.5 / 64
    assert float(seen.max()) < 1.7 / 64


def test_boxes_have_the_sides_and_the_border_that_were_asked_for(keys_of):
    size = (32, 48, 30)
    boxes = _boxes.draw_boxes(keys_of(*range(500)), size, (1 / 6, 1 / 3), 5, 1.0, 0)
    sides = boxes["high"] - boxes["low"]
    for axis, whole in enumerate(size):
        assert int(sides[..., axis].min()) == whole // 6
        assert int(sides[..., axis].max()) == whole // 3
        assert int(boxes["low"][..., axis].min()) == 3
        assert int(boxes["high"][..., axis].max()) == whole - 3


def test_thin_crops_get_boxes_too(keys_of):
    boxes = _boxes.draw_boxes(keys_of(*range(50)), (2, 1, 7), (0.43, 0.58), 5, 0.95, 1)
    assert bool((boxes["low"] >= 0).all())
    assert bool((boxes["high"] <= torch.tensor([2, 1, 7])).all())
    assert bool((boxes["high"] > boxes["low"])[:, 0].all())


def test_the_number_of_boxes_follows_the_probability_of_one_more(keys_of):
    def numbers(always):
        boxes = _boxes.draw_boxes(keys_of(*range(4000)), (32, 32, 32), (0.2, 0.3), 3, 0.6, always)
        return (boxes["high"] > boxes["low"]).all(2).sum(1)

    shares = torch.bincount(numbers(0), minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.4, 0.24, 0.144, 0.216], abs=0.03)
    assert int(numbers(1).min()) == 1


@pytest.mark.parametrize(("side", "always", "painted"), [((0.167, 0.334), 0, 0.055), ((0.43, 0.58), 1, 0.68)])
def test_painting_covers_as_much_as_models_genesis_does(side, always, painted, keys_of):
    """The shares that the original code paints over in a crop of 64 x 64 x 32."""
    size = (64, 64, 32)
    boxes = _boxes.draw_boxes(keys_of(*range(100)), size, side, 5, 0.95, always)
    covered = float(_boxes.box_mask(boxes["low"], boxes["high"], size).float().mean())
    assert (1 - covered if always else covered) == pytest.approx(painted, abs=0.03)


def test_a_box_mask_holds_the_voxels_of_its_boxes(keys_of):
    low, high = (
        torch.tensor([[[1, 2, 3], [0, 0, 0]], [[0, 0, 0], [2, 2, 2]]]),
        torch.tensor([[[3, 4, 5], [0, 0, 0]], [[1, 1, 1], [4, 4, 4]]]),
    )
    mask = _boxes.box_mask(low, high, (5, 6, 7))
    assert mask.flatten(1).sum(1).tolist() == [8, 9]
    assert bool(mask[0, 1:3, 2:4, 3:5].all())
    assert torch.equal(mask[1:], _boxes.box_mask(low[1:], high[1:], (5, 6, 7)))


@pytest.mark.parametrize("axes", [2, 3])
def test_displacements_have_the_mean_length_and_the_smoothness_that_were_set(axes, keys_of):
    size = (24, 32, 20)
    affine = torch.diag(torch.tensor([1.0, 1.5, 2.0, 1.0], dtype=torch.float64)).expand(60, 4, 4)
    margin = (20, 20, 20 if axes == 3 else 0)
    voxels = torch.zeros(60, 1, *(n + 2 * m for n, m in zip(size, margin, strict=True)))
    knots = _elastic.draw_knots(keys_of(*range(60)), size, axes)
    _, warp_mm, _ = _elastic.deformed(voxels, knots, affine, size, 2.5, 10.0, margin)
    assert float(warp_mm.norm(dim=1).mean()) == pytest.approx(2.5, rel=0.08)
    corner, middle = warp_mm[:, :, :2, :2, :2].norm(dim=1).mean(), warp_mm[:, :, 11:13, 15:17, 9:11].norm(dim=1).mean()
    assert float(corner / middle) == pytest.approx(1.0, abs=0.25)
    if axes == 2:
        assert float(warp_mm[:, 2].abs().max()) == 0.0
    # white noise smoothed by a Gaussian is correlated as exp(-d^2 / 4 sigma^2)
    apart = warp_mm[:, :2, 10:] * warp_mm[:, :2, :-10]
    assert float(apart.mean() / (warp_mm[:, :2] ** 2).mean()) == pytest.approx(math.exp(-(10**2) / 400), abs=0.12)


def test_displacements_stay_within_the_margin(keys_of):
    affine = torch.eye(4, dtype=torch.float64).expand(8, 4, 4)
    knots = _elastic.draw_knots(keys_of(*range(8)), (16, 16, 16), 3)
    crops, warp_mm, _ = _elastic.deformed(torch.rand(8, 1, 20, 20, 20), knots, affine, (16, 16, 16), 6.0, 8.0, (2, 2, 2))
    assert float(warp_mm.abs().max()) == 2.0
    assert float(crops.min()) >= 0.0
    assert float(crops.max()) <= 1.0


def test_a_field_of_zeros_changes_nothing():
    voxels = torch.rand(2, 1, 14, 16, 18)
    affine = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    crops, warp_mm, _ = _elastic.deformed(voxels, torch.zeros(2, 3, 4, 4, 5), affine, (10, 12, 14), 2.0, 8.0, (2, 2, 2))
    assert torch.equal(crops, voxels[:, :, 2:-2, 2:-2, 2:-2])
    assert not bool(warp_mm.any())


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3])
def test_boxes_shuffled_one_by_one_are_those_shuffled_all_at_once(share, keys_of):
    shuffle = Shuffle((16, 24, 12), side=0.25, share=share)
    drawn = shuffle.draw(keys_of(1, 2, 3))
    values = torch.rand(3, 2, 16, 24, 12)
    whole = shuffle.apply(values, **drawn)
    for b in range(3):
        one = slice(b, b + 1)
        assert torch.equal(shuffle._few(values[one], drawn["order"][one], drawn["boxes"][one]), whole[one])


def test_noise_of_a_box_is_that_of_the_whole_crop_there(keys_of):
    whole, made = _noise.uniform_noise(keys_of(5), (2, 7, 9, 11)), torch.full((2, 7, 9, 11), -1.0)
    _noise.fill_with_noise(made, keys_of(5), (1, 2, 3), (6, 4, 9))
    assert torch.equal(made[:, 1:6, 2:4, 3:9], whole[0, :, 1:6, 2:4, 3:9])
    assert int((made == -1.0).sum()) == 2 * (7 * 9 * 11 - 5 * 2 * 6)


def test_noise_is_uniform_or_normal_and_each_voxel_has_its_own(keys_of):
    flat, bell = (make(keys_of(3, 4), (2, 40, 40, 40)) for make in (_noise.uniform_noise, _noise.normal_noise))
    assert flat.shape == bell.shape == (2, 2, 40, 40, 40)
    assert float(flat.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(flat.var()) == pytest.approx(1 / 12, rel=0.02)
    assert float(bell.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(bell.std()) == pytest.approx(1.0, rel=0.01)
    for axis in (1, 2, 3, 4):
        pairs = torch.stack([bell.narrow(axis, 0, 1).flatten(), bell.narrow(axis, 1, 1).flatten()])
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.06
    assert torch.equal(_noise.uniform_noise(keys_of(4), (2, 40, 40, 40))[0], flat[1])
