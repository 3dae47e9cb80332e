"""What makes micro-batches exact: weighted means, dropout drawn once, and what is said of the gradients.

That they are is tested in a process of its own, in float64, by ``test_many_ranks.py``.
"""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.nested import mapped
from pipeline.training.health.ring import rows_of
from pipeline.training.micro import flat, leaves, merge, micro_batches, part

made = runpy.run_path(str(Path(__file__).with_name("ranks_of_learners.py")))
make, region, BATCH = made["make"], made["region"], made["BATCH"]


@pytest.mark.parametrize("name", ["restoration", "masked_restoration", "body_position", "visual_words"])
def test_the_micro_batches_hold_unlike_numbers_of_items_so_a_plain_mean_would_be_wrong(name):
    learner = make([name])
    whole = learner._shown([region()], {})
    shares = [float(row[name]) for row in learner.shares([part(whole, slice(low, low + 2)) for low in range(0, BATCH, 2)])]
    assert sum(shares) == pytest.approx(1.0)
    assert max(abs(share - 2 / BATCH) for share in shares) > 0.02


def test_dropout_draws_the_same_in_both_passes_and_other_numbers_for_other_micro_batches_and_steps():
    learner = make(("simclr", "restoration"))
    learner.network.encoder[0].append(nn.Dropout(0.5))
    learner.train()
    seen, encoded = [], learner._encoded

    def noting(network, views, wants, drawn_by=None):
        student = encoded(network, views, wants, drawn_by)
        seen.append((drawn_by, student["pair"][0].pooled.detach().clone()))
        return student

    learner._encoded = noting
    for step in (0, 1):
        learner.backward(micro_batches(region(), 4), step=step)
    first, second = seen[:4], seen[4:]
    for one in (first, second):
        assert [by for by, _ in one[:2]] == [by for by, _ in one[2:]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one[:2], one[2:], strict=True))
    assert not torch.equal(first[0][1], second[0][1])


def test_norms_and_cosines_are_those_of_each_objectives_own_gradient():
    case = ("simclr", "restoration", "body_position")
    learner = make(case)
    learner.train()
    step = learner.losses(region())[1]
    step = replace(step, student=leaves(step.student))
    features = list(flat(step.student).values())
    own = {}
    for name, objective in learner.objectives.items():
        gradients = torch.autograd.grad(learner.weights[name] * objective(step).value, features, allow_unused=True)
        own[name] = torch.cat([(torch.zeros_like(f) if g is None else g).flatten() for g, f in zip(gradients, features, strict=True)])
    for micro in (8, 2):
        found, _ = learner.backward(micro_batches(region(), micro))
        for name in case:
            assert float(found[name].metrics["gradient_norm"]) == pytest.approx(float(own[name].norm()), rel=1e-4)
            for other in set(case) - {name}:
                expected = float(torch.cosine_similarity(own[name], own[other], dim=0))
                assert float(found[name].metrics[f"cosine_{other}"]) == pytest.approx(expected, abs=1e-4)
    assert abs(float(found["restoration"].metrics["cosine_body_position"])) > 1e-4
    assert float(found["restoration"].metrics["cosine_simclr"]) == 0.0, "they read other features"


def test_figures_that_are_no_mean_of_parts_are_those_of_the_whole_batch():
    """The spread of points and the contrast of restored crops: both would be wrong as means over micro-batches."""
    learner = make(("moco", "simclr", "restoration"))
    learner.train()
    whole, parts = (
        {name: loss.metrics for name, loss in learner.backward(micro_batches(region(), size))[0].items()} for size in (BATCH, 1)
    )
    for name, figure in (("moco", "spread"), ("simclr", "spread"), ("restoration", "contrast")):
        assert float(whole[name][figure]) > 0
        assert float(parts[name][figure]) == pytest.approx(float(whole[name][figure]), rel=1e-4)
    points = learner.objectives["moco"](learner.losses(region())[1]).points["spread"]
    assert float(whole["moco"]["spread"]) == pytest.approx(float(points.std(0, correction=0).mean() * points.shape[1] ** 0.5), rel=1e-3)


def test_what_is_kept_for_watchers_is_the_same_however_a_batch_is_cut():
    learner = make(("moco", "restoration", "visual_words"))
    learner.eval()
    kept = [rows_of_all(learner.backward(micro_batches(region(), size))[1].student) for size in (BATCH, 2)]
    assert {kind for _, kind in kept[0]} == {"pooled", "level", "dense"}
    assert kept[0].keys() == kept[1].keys()
    for place, rows in kept[0].items():
        torch.testing.assert_close(kept[1][place], rows, rtol=1e-4, atol=1e-6)
    whole = rows_of_all(learner.losses(region())[1].student)
    for place, rows in kept[0].items():
        torch.testing.assert_close(rows, whole[place], rtol=1e-4, atol=1e-6)


def rows_of_all(student):
    return {(view, kind): rows for view, features in student.items() for kind, rows in rows_of(features).items()}


def test_what_is_cut_joins_to_what_it_was():
    whole = region()
    pieces = micro_batches(whole, 2)
    assert len(pieces) == 4
    assert pieces[1].voxels.data_ptr() == whole.voxels[2:].data_ptr(), "a copy was made"
    again = merge(pieces)
    equal = []
    mapped(lambda a, b: equal.append(torch.equal(a, b)) or a, whole, again)
    assert all(equal)
    assert len(equal) >= 10
    assert again.size_vox == whole.size_vox


def test_features_have_places():
    learner = make(("restoration", "simclr"))
    places = set(flat(learner.losses(region())[1].student))
    assert ("pair", 1, "pooled", 0) in places
    assert ("masked", 0, "dense", 0) in places
