"""The processes that train one model together: who this one is, on which device, and what all of them agree on.

One process a GPU, started by ``torchrun`` or by ``srun`` (``launch.py`` reads what they say). A single process is rank 0 of 1 and needs
no torch.distributed: every method then gives back what it was given.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.training.distributed.launch import compare, introduction, launched, meeting, own_device

T = TypeVar("T")
GOODBYE_S = 5.0  # how long rank 0 waits, before it ends in an error, until the others have read it


@dataclass(frozen=True)
class Ranks:
    """``rank`` of ``world`` processes, one a GPU; ``local_rank`` counts within a machine. A single process is rank 0 of 1."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    store: Any = field(default=None, repr=False, compare=False)
    told: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process writes what all of them made: journal, checkpoints, weights."""
        return self.rank == 0

    def highest(self, tensor: Tensor) -> Tensor:
        """Element by element the highest of all ranks, on the device."""
        return tensor if self.world == 1 else self._reduced(tensor, dist.ReduceOp.MAX)

    def total(self, tensor: Tensor) -> Tensor:
        """Element by element the sum over all ranks, on the device, in an order that is the same everywhere."""
        return tensor if self.world == 1 else self._reduced(tensor, dist.ReduceOp.SUM)

    def mean(self, tensor: Tensor) -> Tensor:
        """Element by element the mean over all ranks, on the device."""
        return tensor if self.world == 1 else self.total(tensor) / self.world

    def gathered(self, rows: Tensor) -> Tensor:
        """(n, ...) of each rank, the same n everywhere -> (ranks * n, ...) in the order of the ranks, on the device."""
        if self.world == 1:
            return rows
        own = rows.detach().to(self.device).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(parts, own)
        return torch.cat(parts)

    def agreed(self, number: int) -> int:
        """The highest of a number over all ranks, as a number: with several ranks it waits for the device."""
        return number if self.world == 1 else int(self.highest(torch.tensor(number)))

    def first(self, act: Callable[[], T]) -> T:
        """What rank 0 does while the others wait: all get its result, a JSON value, or all raise its ``ValueError``."""
        if self.world == 1:
            return act()
        name = f"told{next(self.told)}"
        if not self.leads:
            return self._hear(name)
        try:
            value = act()
        except (ValueError, OSError) as error:
            self.store.set(name, json.dumps({"error": str(error)}))
            with suppress(RuntimeError):
                self.store.wait([f"{name}/{rank}" for rank in range(1, self.world)], timedelta(seconds=GOODBYE_S))
            raise
        self.store.set(name, json.dumps({"value": value}))
        return value

    def barrier(self) -> None:
        """Returns when all ranks are here."""
        if self.world > 1:
            self.agreed(0)

    def _hear(self, name: str) -> Any:
        told = json.loads(self.store.get(name))
        self.store.set(f"{name}/{self.rank}", "heard")
        if "error" in told:
            raise ValueError(told["error"])
        return told["value"]

    def _reduced(self, tensor: Tensor, how: Any) -> Tensor:
        reduced = tensor.detach().to(self.device, copy=True)
        dist.all_reduce(reduced, how)
        return reduced


@contextmanager
def joined(timeout_s: float = 300.0) -> Iterator[Ranks]:
    """This process among those that torchrun or srun started with it; a single process initialises nothing.

    nccl between GPUs, gloo between CPUs. ``timeout_s`` is the longest that any rank waits for another, at the start and later. What
    the launcher said is checked before anything waits: a ``ValueError`` names the variable and the remedy.
    """
    place = launched()
    if place is None or place.world == 1:
        yield Ranks()
        return
    device, timeout = own_device(place), timedelta(seconds=timeout_s)
    store = meeting(place, timeout)
    compare(introduction(store, place, device, timeout_s))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = {"cuda": "nccl", "cpu": "gloo"}[device.type]
    dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=place.rank, world_size=place.world, timeout=timeout)
    ranks = Ranks(place.rank, place.world, place.local_rank, device, dist.PrefixStore("told", store))
    try:
        yield ranks
    except SystemExit:  # all ranks end together, after a checkpoint
        _leave(ranks)
        raise
    _leave(ranks)  # after an error nobody waits: the others may be stuck, and the launcher ends them


def _leave(ranks: Ranks) -> None:
    ranks.barrier()
    dist.destroy_process_group()
