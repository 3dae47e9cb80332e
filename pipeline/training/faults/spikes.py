"""The spike rule: a loss far above the last ones, found on the device without a wait.

A loss is a spike if it exceeds median + 6 MAD (median absolute deviation) of the last 200 steps; the first 50 steps are never spikes.
"""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW, LEAST, DEVIATIONS = 200, 50, 6.0


class Spikes:
    """``losses`` (200,) float32 on the device, NaN where there is none yet; it is part of a checkpoint."""

    def __init__(self, device: torch.device | str, skip: bool = False) -> None:
        self.skip, self.seen = skip, 0
        self.losses = torch.full((WINDOW,), torch.nan, device=device, dtype=torch.float32)

    def found(self, loss: Tensor, finite: Tensor) -> Tensor:
        """0-d bool; the loss is remembered, also that of a spike, so that a level that stays becomes the usual one."""
        middle = _median(self.losses)
        deviation = _median((self.losses - middle).abs())
        spike = finite & (loss > middle + DEVIATIONS * deviation) if self.seen >= LEAST else torch.zeros_like(finite)
        self.losses[self.seen % WINDOW] = torch.where(finite, loss, torch.nan)
        self.seen += 1
        return spike


def _median(values: Tensor) -> Tensor:
    """The middle (of two the lower) of the values that are not NaN; unlike ``Tensor.nanmedian`` it asks the host for nothing."""
    ordered = values.sort().values  # NaN comes last
    place = (ordered.isfinite().sum() - 1).clamp(min=0) // 2
    return ordered.gather(0, place[None])[0]
