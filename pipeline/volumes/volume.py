"""A volume: voxels and the grid that says where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anatomy.grid import Grid


@dataclass(frozen=True, eq=False)
class Volume:
    """voxels (C, D, H, W), int16 or float32, in physical units (HU for CT), on a grid of shape (D, H, W)."""

    voxels: np.ndarray
    grid: Grid

    def __post_init__(self) -> None:
        if self.voxels.ndim != 4 or self.voxels.shape[1:] != self.grid.shape:
            raise ValueError(f"voxels: must be (C, *{self.grid.shape}) as the grid says, not {self.voxels.shape}")

    @property
    def num_channels(self) -> int:
        return self.voxels.shape[0]

    def canonical(self) -> Volume:
        """The same voxels with axes that run towards Right, Anterior, Superior; an oblique grid stays oblique."""
        grid, order, flips = self.grid.canonical()
        return Volume(_reordered(self.voxels, order, flips), grid)

    def cropped(self, low: tuple[int, ...], high: tuple[int, ...]) -> Volume:
        """``voxels[:, low:high]`` on its own grid; both corners must lie inside."""
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        return Volume(self.voxels[(slice(None), *window)], self.grid.cropped(low, high))


def _reordered(voxels: np.ndarray, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> np.ndarray:
    moved = voxels.transpose(0, *(axis + 1 for axis in order))
    return moved[(slice(None), *(slice(None, None, -1 if flip else 1) for flip in flips))]
