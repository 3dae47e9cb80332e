from dataclasses import replace

import torch

from pipeline.objectives.body_position import body_coordinates


def oblique(step):
    """An affine with rotation and shear, and a body box that does not start at the origin."""
    batch = step.views["shown"][0]
    affine, body = batch.affine.clone(), step.body.clone()
    affine[:, 0, 1], affine[:, 2, 0], affine[:, 1, 2] = 0.3, -0.2, 0.1
    body[:, :3, 3] = torch.tensor([0.1, -0.2, 0.3], dtype=body.dtype)
    return replace(batch, affine=affine), body


def test_coordinates_are_the_affines_applied_voxel_by_voxel(network, make_step):
    batch, body = oblique(make_step(network))
    found = body_coordinates(batch, body)
    for index in ((0, 0, 0), (7, 11, 7), (3, 5, 1)):
        expected = body @ batch.affine @ torch.tensor([*index, 1.0], dtype=torch.float64)
        torch.testing.assert_close(found[(slice(None), slice(None), *index)].double(), expected[:, :3], atol=1e-5, rtol=1e-5)


def test_a_warp_moves_the_coordinates_by_its_millimetres(network, make_step):
    batch, body = oblique(make_step(network))
    warp = torch.rand(4, 3, 8, 12, 8)
    moved = body_coordinates(replace(batch, warp_mm=warp), body) - body_coordinates(batch, body)
    expected = warp / torch.tensor([40.0, 50.0, 60.0])[:, None, None, None]
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-4)


def test_loss_and_millimetres_of_a_constant_answer_are_those_of_the_formula(make, context, network, make_step):
    objective, step = make("body_position", context), make_step(network)
    with torch.no_grad():
        objective.head.weight.zero_()
        objective.head.bias.copy_(torch.tensor([0.5, 0.4, 0.3]))
    batch = step.views["shown"][0]
    difference = torch.tensor([0.5, 0.4, 0.3])[:, None, None, None] - body_coordinates(batch, step.body)
    difference = difference[:, :, 1:]  # the first plane lies outside the volume
    loss = objective(step)
    torch.testing.assert_close(loss.value.detach(), difference.abs().mean())
    mm = difference * torch.tensor([40.0, 50.0, 60.0])[:, None, None, None]
    torch.testing.assert_close(loss.metrics["error_mm"], mm.norm(dim=1).mean())
