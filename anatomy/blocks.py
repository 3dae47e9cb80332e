"""Means of blocks of voxels: a volume at no more than 128 along an axis, gathered slice by slice."""

from __future__ import annotations

from functools import cached_property

import numpy as np

MOST = 128


class BlockMeans:
    """``add`` each axial slice of a volume of ``shape`` (D, H, W) once, in any order; sums of whole numbers are exact."""

    def __init__(self, shape: tuple[int, ...], most: int = MOST) -> None:
        self.shape = tuple(shape)
        self.factors = tuple(-(-n // most) for n in shape)
        self._sums = np.zeros([-(-n // f) for n, f in zip(self.shape[::-1], self.factors[::-1], strict=True)], dtype=np.float32)

    def add(self, number: int, picture: np.ndarray) -> None:
        """picture (H, D): slice ``number`` with the first axis as columns."""
        columns, rows, slices = self.factors
        self._sums[number // slices] += _folded_columns(_folded(picture, rows), columns)

    @cached_property
    def means(self) -> np.ndarray:
        """(d, h, w) float32, once all slices were added; blocks at the far ends may be of fewer voxels than ``factors`` says."""
        means = np.ascontiguousarray(self._sums.T)
        for axis, (factor, n) in enumerate(zip(self.factors, self.shape, strict=True)):
            counts = np.minimum(factor, n - factor * np.arange(means.shape[axis])).astype(np.float32)
            means /= counts.reshape([-1 if a == axis else 1 for a in range(3)])
        return means


def block_means(voxels: np.ndarray, most: int = MOST) -> BlockMeans:
    """Of an array (D, H, W)."""
    blocks = BlockMeans(voxels.shape, most)
    for number in range(voxels.shape[2]):
        blocks.add(number, voxels[:, :, number].T)
    return blocks


def _folded(rows: np.ndarray, factor: int) -> np.ndarray:
    """(n, m) of any type -> (ceil(n / factor), m) float32: sums of so many rows each."""
    whole = len(rows) // factor
    out = np.empty((-(-len(rows) // factor), rows.shape[1]), dtype=np.float32)
    part, out[:whole] = np.empty_like(out[:whole]), rows[: whole * factor : factor]
    for number in range(1, factor):
        part[...] = rows[number : whole * factor : factor]  # to float32 by itself: added to int16, it would go through a small buffer
        out[:whole] += part
    if whole < len(out):
        out[whole] = rows[whole * factor :].astype(np.float32).sum(axis=0)
    return out


def _folded_columns(rows: np.ndarray, factor: int) -> np.ndarray:
    """(n, m) -> (n, ceil(m / factor)) as ``_folded``, in the order of memory."""
    whole = rows.shape[1] // factor * factor
    out = np.empty((len(rows), -(-rows.shape[1] // factor)), dtype=rows.dtype)
    inner = out[:, : whole // factor]
    inner[...] = rows[:, :whole:factor]
    for number in range(1, factor):
        inner += rows[:, number:whole:factor]
    if whole < rows.shape[1]:
        out[:, -1] = rows.T[whole:].sum(axis=0)
    return out
