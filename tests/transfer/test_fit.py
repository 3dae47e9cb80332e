"""Fine-tuning takes the steps of pretraining, and they are the steps it always took: kept results stay valid."""

import math
import os
import signal

import pytest
import torch

from pipeline.keys import key
from pipeline.training.optimiser import make_optimiser, rate_factor, set_rate
from pipeline.training.signals import Stop
from pipeline.transfer.batches import Batches
from pipeline.transfer.cells import Cell
from pipeline.transfer.finetune import Finetuning, finetune
from pipeline.transfer.fit import fit


class Fitting:
    """One cell of a tiny study: model, task, batches and settings, the same at each call."""

    def __init__(self, plan, where, name, steps=25):
        self.work = Finetuning(plan, where, next(t for t in plan.transfers if t.initialisation == name))
        self.steps = steps
        self.cell = Cell(2, 1, steps, 2e-2, (self.work.transfer.runs or (None,))[0])
        self.rates = (self.cell.learning_rate, self.work.initialisation.encoder_rate)

    def parts(self):
        scans = self.work.scans["train"]["scan_id"].tolist()[:2]
        batches = Batches(self.work.volumes, scans, self.work.settings.size_vox, 2, self.steps, 1)
        return self.work._model(self.cell), self.work.kind, batches, self.work.settings

    def fit(self, spoil=lambda model: None):
        model, *rest = self.parts()
        spoil(model)
        return model, fit(model, *rest, self.steps, *self.rates, Stop())


def plainly(model, kind, batches, settings, num_steps, rate, encoder_rate):
    """The same fit in the words of a textbook, as fine-tuning had them before it shared a step with pretraining."""
    model.train()
    if encoder_rate == 0:
        model.freeze_encoder()
    encoder, rest = model.encoder_parameters()
    optimiser = make_optimiser([(rest, 1.0), (encoder, encoder_rate)], rate, settings.weight_decay)
    trained = [p for p in model.parameters() if p.requires_grad]
    curve, losses, skipped = [], [], 0
    for step in range(num_steps):
        torch.manual_seed(key(batches.seed, "torch", step))
        now = set_rate(optimiser, rate_factor(step, num_steps, settings.warmup))
        voxels, labels = batches.batch(step)
        loss = kind.loss(model(voxels), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        if math.isfinite(float(loss.detach())) and math.isfinite(float(norm)):
            optimiser.step()
            losses.append(float(loss.detach()))
        else:
            skipped += 1
        if (step + 1) % max(1, num_steps // 20) == 0 or step + 1 == num_steps:
            curve.append((step + 1, round(sum(losses) / len(losses), 6) if losses else None, now))
            losses = []
    return tuple(curve), skipped


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("name", ["scratch", "restoration", "frozen"])
def test_the_shared_step_gives_bit_for_bit_what_fine_tuning_gave_before(tiny, name):
    fitting = Fitting(*tiny, name)
    model, fitted = fitting.fit()
    expected, *rest = fitting.parts()
    curve, skipped = plainly(expected, *rest, fitting.steps, *fitting.rates)
    assert same(model, expected)
    assert (fitted.curve, fitted.skipped) == (curve, skipped)
    assert skipped == 0


def test_a_step_that_is_not_finite_is_skipped_counted_and_changes_nothing(tiny):
    fitting = Fitting(*tiny, "scratch", steps=4)
    poison = lambda model: model.head.weight.register_hook(lambda gradient: gradient * torch.nan)  # noqa: E731
    model, fitted = fitting.fit(poison)
    assert fitted.skipped == 4
    assert [loss for _, loss, _ in fitted.curve] == [None] * 4
    assert same(model, fitting.parts()[0])


def test_a_signal_ends_fine_tuning_with_75_and_the_next_call_goes_on(tiny, monkeypatch):
    plan, where = tiny
    transfer, batch, calls = plan.transfers[0], Batches.batch, []

    def signalled(self, step):
        calls.append(step)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGUSR2)
        return batch(self, step)

    monkeypatch.setattr(Batches, "batch", signalled)
    with pytest.raises(SystemExit) as stopped:
        finetune(plan, where, transfer)
    assert stopped.value.code == 75
    folder = where.transfer(transfer.transfer)
    assert len(list((folder / "cells").glob("*.json"))) == 1
    finetune(plan, where, transfer)
    assert len(calls) == 6 + 3 * 4
    assert where.cases(transfer.transfer).exists()


def test_channels_innermost_change_speed_and_not_what_is_learned(tiny):
    fitting = Fitting(*tiny, "scratch", steps=5)
    usual, curve = fitting.fit()
    fitting.work.settings = fitting.work.settings.model_copy(update={"channels_last": True})
    innermost, other = fitting.fit()
    assert innermost.network.encoder[0][1].conv.weight.stride()[1] == 1 != usual.network.encoder[0][1].conv.weight.stride()[1]
    assert [point[1] for point in other.curve] == pytest.approx([point[1] for point in curve.curve], rel=1e-4)
    for name, value in usual.state_dict().items():
        torch.testing.assert_close(innermost.state_dict()[name], value, atol=1e-3, rtol=1e-2)
