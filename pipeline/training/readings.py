"""Figures on their way from the device: nobody waits for them, and everybody reads them equally late.

On a GPU the figures of a step are looked at ``LATE`` steps later, when their copy has long arrived: always exactly so late, so that all
ranks find the same thing at the same step. On a CPU they are at hand at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

LATE = 8


@dataclass(frozen=True)
class Reading:
    """``values`` of the step that ended as number ``done``; ``what`` is what the loop said of them."""

    done: int
    values: list[float]
    what: dict[str, Any] = field(default_factory=dict)


class Readings:
    """A queue in the order of the steps."""

    def __init__(self, device: torch.device) -> None:
        self.late = LATE if device.type == "cuda" else 0
        self.pending: deque[tuple[int, Tensor, Any, dict[str, Any]]] = deque()

    def put(self, done: int, values: Tensor, **what: Any) -> None:
        """``values`` (n,) float32; copied to pinned memory behind the step's own work."""
        event = None
        if values.is_cuda:
            values = values.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending.append((done, values, event, what))

    def due(self, all_of_them: bool = False) -> Iterator[Reading]:
        """Those that are old enough; before a checkpoint or at the end all of them."""
        while len(self.pending) > (0 if all_of_them else self.late):
            done, values, event, what = self.pending.popleft()
            if event is not None:
                event.synchronize()
            yield Reading(done, values.tolist(), what)

    def clear(self) -> None:
        self.pending.clear()
