import pytest
import torch
from pydantic import ValidationError

STILL = {"gamma": 0.0, "contrast": 0.0, "brightness": 0.0, "noise": 0.0, "blur": 0.0, "scale": 0.0, "max_shift_vox": 0}


@pytest.fixture
def augmented(make_region, make_view, keys_of):
    def make(samples=range(4), **values):
        view, region = make_view("augment", **(STILL | values)), make_region(batch=len(samples))
        return view.apply(region, view.draw(keys_of(*samples), region)), make_view("clean").apply(region, {})[0], region

    return make


def test_with_everything_off_each_crop_is_the_clean_one(augmented):
    views, clean, _ = augmented(num_views=3)
    assert len(views) == 3
    for view in views:
        assert torch.equal(view.voxels, clean.voxels)
        assert torch.equal(view.affine, clean.affine)
        assert view.answers["visible"].tolist() == [1.0] * 4


def test_shifts_stay_within_the_bound_differ_between_views_and_stand_in_the_affine(augmented):
    views, clean, _ = augmented(samples=range(60), max_shift_vox=3)
    shifts = []
    for view in views:
        moved = torch.linalg.solve(clean.affine[:, :3, :3], (view.affine - clean.affine)[:, :3, 3])
        assert torch.equal(moved, moved.round())
        assert moved.abs().max() == 3
        shifts.append(moved.long())
    assert not torch.equal(*shifts)
    a, b, c = shifts[0][0].tolist()
    overlap = [(slice(max(0, -s), n - max(0, s)), slice(max(0, s), n + min(0, s))) for s, n in zip((a, b, c), (16, 24, 12), strict=True)]
    mine, theirs = tuple(o[0] for o in overlap), tuple(o[1] for o in overlap)
    assert torch.equal(views[0].voxels[0, 0][mine], clean.voxels[0, 0][theirs])


def test_scales_stand_in_the_affine(augmented):
    views, clean, _ = augmented(samples=range(100), scale=0.2)
    ratio = views[0].affine[:, :3, :3].diagonal(dim1=1, dim2=2) / clean.affine[:, :3, :3].diagonal(dim1=1, dim2=2)
    assert 1 / 1.2 <= float(ratio.min()) < 0.88
    assert 1.14 < float(ratio.max()) <= 1.2
    middle = torch.tensor([7.5, 11.5, 5.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(views[0].affine @ middle, clean.affine @ middle, rtol=0, atol=1e-4)


def test_no_view_is_mirrored_unless_flips_are_asked_for(augmented):
    for view in augmented(samples=range(40))[0]:
        assert not bool(view.answers["mirrored"].any())
        assert bool((torch.linalg.det(view.affine[:, :3, :3]) > 0).all())
    views, clean, _ = augmented(samples=range(40), flip=True)
    mirrored = views[0].answers["mirrored"]
    assert 8 < int(mirrored.sum()) < 32
    torch.testing.assert_close(views[0].voxels[mirrored], clean.voxels[mirrored].flip(2))
    assert torch.equal(views[0].voxels[~mirrored], clean.voxels[~mirrored])
    assert torch.equal(torch.linalg.det(views[0].affine[:, :3, :3]) < 0, mirrored)


@pytest.mark.parametrize("name", ["gamma", "contrast", "brightness", "noise", "blur", "low_resolution"])
def test_each_intensity_change_comes_as_often_as_its_probability(name, augmented):
    (view,), clean, _ = augmented(samples=range(120), num_views=1, **{name: 0.4})
    changed = ((view.voxels - clean.voxels).abs().amax((1, 2, 3, 4)) > 1e-6).float().mean()
    assert float(changed) == pytest.approx(0.4, abs=0.12)


def test_blur_and_low_resolution_smooth_and_noise_roughens(augmented):
    def roughness(**values):
        views, _, _ = augmented(samples=range(16), num_views=1, **values)
        return float(views[0].voxels.diff(dim=2).abs().mean())

    plain = roughness()
    assert roughness(blur=1.0, blur_range_vox=[1.0, 1.0]) < 0.9 * plain
    assert roughness(low_resolution=1.0, low_resolution_max=3.0) < 0.98 * plain
    assert roughness(noise=1.0, noise_max=0.1) > 1.2 * plain


def test_gamma_is_a_power_and_contrast_is_about_the_mean(make_region, make_view, keys_of):
    region = make_region()
    clean = make_view("clean").apply(region, {})[0].voxels
    view = make_view("augment", **(STILL | {"gamma": 1.0, "num_views": 1}))
    drawn = view.draw(keys_of(0, 1, 2, 3), region)
    torch.testing.assert_close(view.apply(region, drawn)[0].voxels, clean ** drawn["gamma_0"][:, None, None, None, None])
    view = make_view("augment", **(STILL | {"contrast": 1.0, "num_views": 1}))
    drawn = view.draw(keys_of(0, 1, 2, 3), region)
    mean, factor = clean.mean((2, 3, 4), keepdim=True), drawn["contrast_0"][:, None, None, None, None]
    torch.testing.assert_close(view.apply(region, drawn)[0].voxels, ((clean - mean) * factor + mean).clamp(0, 1))


def test_views_overlap_by_what_the_shift_bound_allows(make_view):
    assert make_view("augment", **STILL).extent_vox() == (16, 24, 12)
    assert make_view("augment", **(STILL | {"max_shift_vox": 4})).extent_vox() == (24, 32, 20)
    assert make_view("augment", **(STILL | {"scale": 0.1, "blur": 0.5})).extent_vox() == (22, 32, 18)


def test_ranges_that_fall_are_refused(make_view):
    with pytest.raises(ValidationError, match="gamma_range"):
        make_view("augment", gamma_range=[1.5, 0.7])
