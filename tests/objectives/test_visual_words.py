"""Word classification: against plain cross-entropy, with crops that show too little or no word."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

VIEW = "shown"


def with_visible(step, visible):
    (batch,) = step.views[VIEW]
    return replace(step, views={VIEW: (replace(batch, answers={**batch.answers, "visible": torch.tensor(visible)}),)})


def logits_of(objective, step):
    return objective.head(step.student[VIEW][0].levels[-1])


def test_the_loss_is_pytorchs_cross_entropy_when_nothing_is_weighted(make, context, network, make_step):
    step = make_step(network)
    objective = make("visual_words", context, by_visible=False, by_confidence=False)
    loss = objective(step)
    torch.testing.assert_close(loss.value, F.cross_entropy(logits_of(objective, step), step.places.word[:, 0]))
    assert objective.num_words == 10


def test_visible_share_and_confidence_weigh_the_crops(make, context, network, make_step):
    visible, sure = [0.3, 0.6, 0.9, 1.0], torch.tensor([1.0, 0.5, 0.25, 0.1])
    step = with_visible(make_step(network), visible)
    step = replace(step, places=replace(step.places, confidence=sure[:, None]))
    objective = make("visual_words", context, label_smoothing=0.1)
    weight = torch.tensor(visible) * sure
    each = F.cross_entropy(logits_of(objective, step), step.places.word[:, 0], reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(objective(step).value, (weight * each).sum() / weight.sum())
    assert not torch.isclose(objective(step).value, each.mean())


def test_crops_that_show_too_little_or_have_no_word_or_are_mirrored_are_not_classified(make, context, network, make_step):
    step = with_visible(make_step(network), [0.1, 0.9, 0.9, 0.9])
    step = replace(step, places=replace(step.places, valid=torch.tensor([[True], [False], [True], [True]])))
    (batch,) = step.views[VIEW]
    flipped = replace(batch, answers={**batch.answers, "mirrored": torch.tensor([False, False, True, False])})
    step = replace(step, views={VIEW: (flipped,)})
    objective = make("visual_words", context)
    loss = objective(step)
    torch.testing.assert_close(loss.value, F.cross_entropy(logits_of(objective, step)[3:], step.places.word[3:, 0]))
    assert loss.metrics["share_classified"] == 0.25


def test_a_batch_without_a_word_has_no_loss_and_no_gradient_but_a_path(make, context, network, make_step):
    step = make_step(network)
    step = replace(step, places=replace(step.places, valid=torch.zeros(4, 1, dtype=torch.bool)))
    objective = make("visual_words", context)
    loss = objective(step)
    loss.value.backward()
    assert loss.value == 0
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())
    assert all(torch.isfinite(value) for value in loss.metrics.values())


def test_accuracy_counts_right_answers_once_and_by_weight(make, context, network, make_step):
    step = with_visible(make_step(network), [0.5, 0.5, 1.0, 1.0])
    objective = make("visual_words", context, by_confidence=False)
    with torch.no_grad():
        objective.head.last.weight.zero_()
        objective.head.last.bias.zero_()[3] = 1.0  # always says word 3, which crops 0 and 3 show
    metrics = objective(step).metrics
    assert metrics["accuracy"] == pytest.approx(0.5)
    assert metrics["accuracy_weighted"] == pytest.approx((0.5 + 1.0) / 3.0)


def test_the_head_learns_the_words_of_a_batch_also_in_bfloat16(make, context, network, make_step):
    step = make_step(network, batch=6, bf16=True)
    objective = make("visual_words", context, hidden=32)
    optimiser = torch.optim.Adam(objective.parameters(), 1e-2)
    detached = replace(step.student[VIEW][0], levels=tuple(level.detach() for level in step.student[VIEW][0].levels))
    step = replace(step, student={VIEW: (detached,)})
    for _ in range(60):
        optimiser.zero_grad()
        loss = objective(step)
        loss.value.backward()
        optimiser.step()
    assert loss.value.dtype == torch.float32
    assert loss.metrics["accuracy"] == 1.0


def test_without_a_lexicon_it_says_what_to_add(make, context):
    with pytest.raises(ValueError, match=r"words: \{encoder: RECIPE"):
        make("visual_words", replace(context, lexicon=None))
