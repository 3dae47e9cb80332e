import math
from dataclasses import replace

import pytest
import torch

from pipeline.objectives.moco import queue_length
from pipeline.step import Features


def keys_of(objective, step):
    return [objective.slow_projector(features.pooled) for features in step.teacher["shown"]]


def apart(objective):
    """Makes the slow projector differ from its own, as it does after some steps."""
    with torch.no_grad():
        objective.slow_projector.last.weight.mul_(-0.7).add_(0.01)
    return objective


def cross_entropy(query, key, queue, temperature):
    """-log of the positive's share, sample by sample; ``queue`` is a list of negatives a sample."""
    total = 0.0
    for q, k, negatives in zip(query, key, queue, strict=True):
        positive = math.exp(float(q @ k) / temperature)
        total -= math.log(positive / (positive + sum(math.exp(float(q @ n) / temperature) for n in negatives)))
    return total / len(query)


def test_the_loss_is_the_symmetric_cross_entropy_over_positive_and_queue(make, context, network, make_step):
    objective = apart(make("moco", context, queue=8, temperature=0.3))
    bank = [[], []]
    subjects = []
    for seed in (1, 0):  # the second shares its subjects with the step that is judged
        step = make_step(network, 2, seed=seed)
        objective.update(step)
        for view, keys in enumerate(keys_of(objective, step)):
            bank[view] += list(keys.detach().double())
        subjects += step.ids.subject.tolist()
    step = make_step(network, 2, seed=0)
    queries = [objective.projector(f.pooled).detach().double() for f in step.student["shown"]]
    keys = [k.detach().double() for k in keys_of(objective, step)]

    def negatives(view):
        return [[n for n, s in zip(bank[view], subjects, strict=True) if s != own] for own in step.ids.subject.tolist()]

    expected = (cross_entropy(queries[0], keys[1], negatives(1), 0.3) + cross_entropy(queries[1], keys[0], negatives(0), 0.3)) / 2
    loss = objective(step)
    assert float(loss.value.detach()) == pytest.approx(expected, rel=1e-5)
    assert loss.metrics["negatives"] == 7


def test_without_exclusion_every_key_is_a_negative(make, context, network, make_step):
    objective = make("moco", context, queue=8, exclude_same_subject=False)
    for seed in (1, 0):
        objective.update(make_step(network, 2, seed=seed))
    assert objective(make_step(network, 2, seed=0)).metrics["negatives"] == 8


def test_keys_too_like_the_query_are_no_negatives(make, context, network, make_step):
    step = make_step(network, 2)
    losses = {}
    for prune_above in (None, 0.5):
        objective = make("moco", context, queue=8, temperature=0.3, prune_above=prune_above)
        objective.update(make_step(network, 2, seed=1))
        queries = [objective.projector(f.pooled).detach() for f in step.student["shown"]]
        keys = keys_of(objective, step)
        with torch.no_grad():  # half the keys at a cosine of 1, half at -1, to each query of the first sample
            objective.queue[:, :2] = torch.stack([queries[1][0], queries[0][0]])[:, None]
            objective.queue[:, 2:4] = -objective.queue[:, :2]
        kept = [[[n for n in objective.queue[v, :4] if prune_above is None or q @ n < prune_above] for q in queries[1 - v]] for v in (0, 1)]
        expected = (cross_entropy(queries[0], keys[1], kept[1], 0.3) + cross_entropy(queries[1], keys[0], kept[0], 0.3)) / 2
        losses[prune_above] = float(objective(step).value.detach())
        assert losses[prune_above] == pytest.approx(expected, rel=1e-4)
    assert losses[0.5] < losses[None] - 0.1


def test_an_empty_queue_offers_no_negative(make, context, network, make_step):
    loss = make("moco", context)(make_step(network, 2))
    assert loss.metrics["negatives"] == 0
    assert float(loss.value.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("length", [3, 7, 16])
def test_the_queue_holds_the_newest_keys_whatever_its_length(make, context, network, make_step, length):
    objective = make("moco", context, queue=length)
    history, subjects = [], []
    for seed in range(1, 5):
        step = make_step(network, 2, seed=seed)
        objective.update(step)
        history += list(torch.stack(keys_of(objective, step), 1).detach())
        subjects += step.ids.subject.tolist()
    newest = {index % length: index for index in range(len(history))}
    for place, index in newest.items():
        torch.testing.assert_close(objective.queue[:, place], history[index])
        assert objective.subject[place] == subjects[index]
    assert objective.position == len(history) % length


def test_no_gradient_reaches_the_teacher_or_its_projector(make, context, network, make_step):
    objective = make("moco", context)
    objective.update(make_step(network, 2, seed=1))
    step = make_step(network, 2)
    teacher = tuple(Features(pooled=f.pooled.clone().requires_grad_()) for f in step.teacher["shown"])
    objective(replace(step, teacher={"shown": teacher})).value.backward()
    assert all(f.pooled.grad is None for f in teacher)
    assert all(p.grad is None for p in objective.slow_projector.parameters())


def test_the_momentum_rises_as_a_cosine(make, context):
    objective = make("moco", context, momentum=0.9, final_momentum=1.0)
    assert objective.momentum(0.0) == pytest.approx(0.9)
    assert objective.momentum(0.5) == pytest.approx(0.95)
    assert objective.momentum(1.0) == pytest.approx(1.0)


def test_the_queue_stays_shorter_than_the_scans(make, context):
    assert make("moco", replace(context, num_scans=100)).queue.shape[1] == queue_length(100) == 64
    assert all(queue_length(n) <= max(16, 0.65 * n) for n in (1, 30, 50, 99, 100, 250, 700, 5000, 39_999))


def test_buffers_are_part_of_the_checkpoint(make, context):
    assert {"queue", "subject", "position"} <= set(make("moco", context).state_dict())
