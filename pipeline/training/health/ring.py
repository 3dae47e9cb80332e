"""The last steps' features on the device: written without waiting for it, read when the journal is."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.step import Features

ROWS = 256  # kept of each kind of feature
STEPS = 64  # at most, so that what a network has left behind is forgotten in time for an alarm
PLACES = 4  # voxels of a crop that stand for all of its dense features


class Ring:
    """(K, R, D) float32: R rows of each of the last K additions: K * R about ``ROWS``, K at most ``longest``."""

    def __init__(self, longest: int = STEPS) -> None:
        self.longest = longest
        self.values: Tensor | None = None
        self.added = 0

    def add(self, rows: Tensor) -> None:
        """rows (R, D); the same R and D at every step. More than ``ROWS`` are cut off; what is not finite, in a skipped step, is 0."""
        rows = rows[:ROWS]
        if self.values is None:
            steps = min(self.longest, -(-ROWS // len(rows)))
            self.values = torch.zeros(steps, *rows.shape, device=rows.device, dtype=torch.float32)
        if self.values.device != rows.device:
            self.values = self.values.to(rows.device)
        self.values[self.added % len(self.values)] = torch.nan_to_num(rows.float(), 0.0, 0.0, 0.0)
        self.added += 1

    def steps(self) -> Tensor:
        """What was added, (K or fewer, R, D); the order of the steps does not matter to what is made of it."""
        assert self.values is not None
        return self.values[: min(self.added, len(self.values))]

    def freedom(self) -> int:
        """Rows less the means that are taken off them: no rank can exceed it."""
        steps, rows = self.steps().shape[:2]
        return steps * (rows - 1) if rows > 1 else steps - 1


def rows_of(views: tuple[Features, ...]) -> dict[str, Tensor]:
    """Rows (N, D) of each kind of feature that the student has of a view's crops: pooled, the coarsest level, dense."""
    kinds = {
        "pooled": [features.pooled for features in views if features.pooled is not None],
        "level": [at_places(features.levels[-1]) for features in views if features.levels],
        "dense": [at_places(features.dense) for features in views if features.dense is not None],
    }
    return {kind: torch.cat([part.detach() for part in parts]).float() for kind, parts in kinds.items() if parts}


def at_places(features: Tensor) -> Tensor:
    """(B, C, D, H, W) -> (B * PLACES, C): voxels on the diagonal of each crop, evenly spaced and away from its faces."""
    shape = features.shape[2:]
    marks = [(2 * place + 1) / (2 * PLACES) for place in range(PLACES)]
    picked = [features[:, :, int(shape[0] * m), int(shape[1] * m), int(shape[2] * m)] for m in marks]
    return torch.stack(picked, 1).flatten(0, 1)
