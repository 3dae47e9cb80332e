"""Where a training crop is: the one thing that every source of crops draws."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.keys import key, permutation

Word = tuple[int, float, float, float, float, float]  # word, x_mm, y_mm, z_mm, size_mm, confidence


@dataclass(frozen=True)
class Crop:
    """A crop of ``read_vox`` stored voxels around an index of a scan; the loader resizes it to the recipe's ``size_vox``.

    ``row`` is the scan's position in the rows; ``words`` are the words in reach, the one in the centre first.
    """

    row: int
    centre_vox: tuple[int, int, int]
    read_vox: tuple[int, int, int]
    words: tuple[Word, ...] = ()


class Order:
    """Which scan a sample comes from: every epoch is a permutation of its own of all scans."""

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError("crops: there is no scan to draw from; look at the pool and at quarantine.tsv")
        self.count, self.seed = count, seed
        self._known: tuple[int, np.ndarray] | None = None

    def __call__(self, sample: int) -> int:
        epoch, place = divmod(sample, self.count)
        known = self._known  # one tuple, so that a reading thread never sees the order of another epoch
        if known is None or known[0] != epoch:
            known = (epoch, permutation(key(self.seed, "order", epoch), self.count))
            self._known = known
        return int(known[1][place])


def within(centre: Iterable[float], read_vox: Iterable[int], shape: Iterable[int]) -> tuple[int, int, int]:
    """The nearest centre from which a crop lies inside the volume; along an axis that is too short, the volume's own centre."""
    return tuple(_within(*axis) for axis in zip(centre, read_vox, shape, strict=True))


def _within(centre: float, read: int, size: int) -> int:
    if read >= size:
        return int(size) // 2
    low = int(read) // 2
    return int(min(max(centre, low), int(size) - (int(read) - low)))
