"""Fitting a model to labelled crops, and judging it on whole volumes."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.keys import key
from pipeline.recipe import Finetune
from pipeline.training.optimiser import make_optimiser, rate_factor, set_rate
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


def fit(model: Model, kind: Any, batches: Batches, settings: Finetune, num_steps: int, learning_rate: float, encoder_rate: float) -> Fitted:
    """AdamW with warm-up, cosine and gradients clipped to norm 1. A step whose loss or gradient is not finite is skipped and counted."""
    model.train()
    if encoder_rate == 0:
        model.freeze_encoder()
    encoder, rest = model.encoder_parameters()
    optimiser = make_optimiser([(rest, 1.0), (encoder, encoder_rate)], learning_rate, settings.weight_decay)
    trained = [p for p in model.parameters() if p.requires_grad]
    device = trained[0].device
    every = max(1, num_steps // POINTS)
    curve, losses, skipped = [], [], 0
    for step in range(num_steps):
        torch.manual_seed(key(batches.seed, "torch", step))
        rate = set_rate(optimiser, rate_factor(step, num_steps, settings.warmup))
        voxels, labels = (part.to(device, non_blocking=True) for part in batches.batch(step))
        loss = kind.loss(model(voxels), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, CLIP)
        value = float(loss.detach())
        if math.isfinite(value) and bool(torch.isfinite(norm)):
            optimiser.step()
            losses.append(value)
        else:
            skipped += 1
        if (step + 1) % every == 0 or step + 1 == num_steps:
            curve.append((step + 1, round(sum(losses) / len(losses), 6) if losses else None, rate))
            losses = []
    return Fitted(tuple(curve), skipped)


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
