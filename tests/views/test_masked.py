import pytest
import torch


@pytest.mark.parametrize(("ratio", "blocks"), [(0.0, 0), (0.6, 7), (0.75, 9), (1.0, 12)])
def test_exactly_the_share_of_blocks_is_hidden_in_every_sample(ratio, blocks, make_region, make_view, keys_of):
    view, region = make_view("masked", ratio=ratio), make_region()  # 16 x 24 x 12 in blocks of 8: 2 x 3 x 2
    drawn = view.draw(keys_of(*range(4)), region)
    assert drawn["hidden_blocks"].sum(1).tolist() == [blocks] * 4
    (shown,) = view.apply(region, drawn)
    torch.testing.assert_close(shown.answers["visible"], 1 - shown.altered.float().mean((1, 2, 3)))


def test_hidden_voxels_are_whole_blocks_of_zeros_and_the_rest_is_untouched(make_region, make_view, keys_of):
    view, region = make_view("masked", block_vox=[4, 8, 3], ratio=0.5), make_region(channels=2)
    (shown,) = view.apply(region, view.draw(keys_of(0, 1, 2, 3), region))
    (clean,) = make_view("clean", channels=2).apply(region, {})
    assert torch.equal(shown.target, clean.voxels)
    assert torch.equal(shown.voxels, clean.voxels * ~shown.altered[:, None])
    blocks = shown.altered.reshape(4, 4, 4, 3, 8, 4, 3).float().mean((2, 4, 6))
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    assert blocks.sum((1, 2, 3)).tolist() == [24.0] * 4
    assert shown.hidden is None
    assert shown.hide == "none"


@pytest.mark.parametrize("hide", ["drop", "token", "sparse"])
def test_networks_that_hide_by_themselves_get_the_voxels_and_the_mask(hide, make_region, make_view, keys_of):
    view, region = make_view("masked", hide=hide), make_region()
    (shown,) = view.apply(region, view.draw(keys_of(0, 1, 2, 3), region))
    assert torch.equal(shown.voxels, shown.target)
    assert torch.equal(shown.hidden, shown.altered)
    assert shown.hide == hide


def test_every_block_is_hidden_equally_often(make_region, make_view, keys_of):
    often = make_view("masked").draw(keys_of(*range(3000)), make_region(batch=1))["hidden_blocks"].float().mean(0)
    assert often.tolist() == pytest.approx([7 / 12] * 12, abs=0.04)
