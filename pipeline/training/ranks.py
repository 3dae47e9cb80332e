"""The processes that train one model together: who this one is, on which device, and what all of them agree on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Ranks:
    """``rank`` of ``world`` processes, one a GPU; ``local_rank`` counts within a machine. A single process is rank 0 of 1."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes what all of them made: journal, checkpoints, weights."""
        return self.rank == 0
