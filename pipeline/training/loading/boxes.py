"""Several crops from one read: neighbours in a scan are decoded together, as the box that holds them all.

A crop decodes every stored block that it touches, and crops that lie close to each other touch the same ones.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.volumes.packing import BLOCK

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Place:
    """A box of a scan: its row, first index and size. It may reach past the volume."""

    row: int
    low: Triple
    size: Triple

    def cost(self) -> int:
        """Voxels of the blocks that are decoded for it, on average."""
        return math.prod(n + side - 1 for n, side in zip(self.size, BLOCK, strict=True))

    def joined(self, other: Place) -> Place:
        """The smallest box that holds both."""
        low = tuple(map(min, self.low, other.low))
        size = tuple(max(a + n, b + m) - c for a, n, b, m, c in zip(self.low, self.size, other.low, other.size, low, strict=True))
        return Place(self.row, low, size)

    def __contains__(self, inner: Place) -> bool:
        spans = zip(self.low, self.size, inner.low, inner.size, strict=True)
        return self.row == inner.row and all(a <= b and b + m <= a + n for a, n, b, m in spans)

    def window(self, inner: Place) -> tuple[slice, ...]:
        """Where another box lies in this one."""
        return tuple(slice(b - a, b - a + n) for a, b, n in zip(self.low, inner.low, inner.size, strict=True))


def together(places: Sequence[Place]) -> list[tuple[Place, list[int]]]:
    """(box, numbers of the places in it): runs of places in a row for which one read decodes no more than reads of their own would."""
    runs: list[tuple[Place, list[int]]] = []
    for number, place in enumerate(places):
        if runs and runs[-1][0].row == place.row:
            box, members = runs[-1]
            whole = box.joined(place)
            if whole.cost() <= box.cost() + place.cost():
                runs[-1] = (whole, [*members, number])
                continue
        runs.append((place, [number]))
    return runs


class Scratch(threading.local):
    """Memory of each reading thread, kept from one box to the next."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.int16)

    def take(self, shape: Sequence[int]) -> np.ndarray:
        """(*shape) int16 of any content; valid until the same thread takes again."""
        count = math.prod(shape)
        if len(self.memory) < count:
            self.memory = np.empty(count, np.int16)
        return self.memory[:count].reshape(shape)
