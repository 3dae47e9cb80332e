"""Fitting a model to labelled crops, and judging it on whole volumes."""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.keys import key
from pipeline.study import Finetune
from pipeline.training.optimiser import make_optimiser
from pipeline.training.signals import Stop, Stopped
from pipeline.training.stepping import Outcome, Stepper, statistics
from pipeline.transfer.batches import Batches
from pipeline.transfer.labelled import LabelledVolumes
from pipeline.transfer.metrics import overlaps
from pipeline.transfer.model import Model

CLIP = 1.0
POINTS = 20  # of the loss curve


@dataclass(frozen=True)
class Fitted:
    """``curve``: (step, mean loss since the last point or None, learning rate); ``skipped``: steps without a finite loss and gradient."""

    curve: tuple[tuple[int, float | None, float], ...]
    skipped: int


def fit(
    model: Model, kind: Any, batches: Batches, settings: Finetune, num_steps: int, learning_rate: float, encoder_rate: float, stop: Stop
) -> Fitted:
    """The steps of pretraining (``training/stepping.py``): AdamW with warm-up, cosine, gradients clipped to norm 1, and a step skipped and
    counted whose loss or gradient is not finite. A signal ends it: what is fitted again is one cell."""
    model.train()
    if encoder_rate == 0:
        model.freeze_encoder()
    encoder, rest = model.encoder_parameters()
    optimiser = make_optimiser([(rest, 1.0), (encoder, encoder_rate)], learning_rate, settings.weight_decay)
    trained = [p for p in model.parameters() if p.requires_grad]
    device = trained[0].device
    stepper = Stepper(trained, optimiser, num_steps, settings.warmup, CLIP, statistics(model))
    every = max(1, num_steps // POINTS)
    curve, outcomes, skipped = [], [], 0
    for step in range(num_steps):
        torch.manual_seed(key(batches.seed, "torch", step))
        voxels, labels = (part.to(device, non_blocking=True) for part in batches.batch(step))
        stepper.begin()
        loss = kind.loss(model(voxels), labels)
        loss.backward()
        outcomes.append(stepper.finish(step, loss))
        if stop.code:
            raise Stopped(stop.code)
        if (step + 1) % every == 0 or step + 1 == num_steps:
            losses = _accepted(outcomes)
            skipped += len(outcomes) - len(losses)
            curve.append((step + 1, round(sum(losses) / len(losses), 6) if losses else None, outcomes[-1].rate))
            outcomes = []
    return Fitted(tuple(curve), skipped)


def _accepted(outcomes: list[Outcome]) -> list[float]:
    """Losses of the steps that were taken: one wait for the device in a point of the curve."""
    values = torch.stack([torch.stack([outcome.good.to(torch.float32), outcome.loss]) for outcome in outcomes]).tolist()
    return [loss for good, loss in values if good]


@torch.no_grad()
def judge(
    model: Model, kind: Any, volumes: LabelledVolumes, scan_ids: list[str], size_vox: tuple[int, ...]
) -> dict[str, dict[str, float | None]]:
    """Dice by scan and class, rounded to six digits; None where prediction and reference both lack the class."""
    model.eval()
    device = next(model.parameters()).device
    found = {}
    for scan_id in scan_ids:
        voxels, labels = volumes.whole(scan_id)
        prediction = kind.predict(model, torch.from_numpy(voxels).to(device), size_vox)
        scores = overlaps(prediction, labels, kind.classes)
        found[scan_id] = {name: None if score.empty else round(score.dice, 6) for name, score in scores.items()}
    return found
