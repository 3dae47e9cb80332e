"""The processes that train one model together: who this one is, on which device, and what all of them agree on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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

    def highest(self, values: Tensor) -> Tensor:
        """Element by element the largest of all ranks."""
        if self.world > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def total(self, values: Tensor) -> Tensor:
        """Element by element the sum over all ranks."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Element by element the mean over all ranks."""
        return values if self.world == 1 else self.total(values) / self.world

    def first(self, act: Callable[[], T]) -> T:
        """What rank 0 does while the others wait: all get its result, a JSON value, or all raise its ``ValueError``."""
        told: list[Any] = [None]
        if self.leads:
            try:
                told = [{"value": act()}]
            except ValueError as error:
                told = [{"error": str(error)}]
        if self.world > 1:
            dist.broadcast_object_list(told, 0)
        if "error" in told[0]:
            raise ValueError(told[0]["error"])
        return told[0]["value"]

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.world > 1:
            dist.barrier()
