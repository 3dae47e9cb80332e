"""The last steps' features on the device: written without waiting for it, read when the journal is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.step import Features
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.micro import thinned

ROWS = 256  # kept of each kind of feature
STEPS = 64  # at most, so that what a network has left behind is forgotten in time for an alarm


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
    """(B, C, D, H, W) -> (B * PLACES, C): the voxels that stand for a crop."""
    return thinned(features).flatten(2).transpose(1, 2).flatten(0, 1)


def of_all_ranks(rows: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """(R, D) rows by kind -> (ranks * R, D), those of the whole batch; by one exchange. Of more than ``ROWS`` each rank gives its share."""
    own = {kind: value[: max(1, ROWS // ranks.world)] for kind, value in rows.items()}
    if ranks.world == 1 or not own:
        return own
    together = ranks.gathered(torch.cat([value.flatten() for value in own.values()])[None])
    parts = together.split([value.numel() for value in own.values()], 1)
    return {kind: part.reshape(-1, value.shape[1]) for (kind, value), part in zip(own.items(), parts, strict=True)}
