"""Finding a place of one scan in another: the surroundings that agree best, near where body coordinates say.

Block matching by normalised cross-correlation, from wide and coarse to narrow and fine. A displacement costs correlation, so that where
nothing can be told apart the place stays where body coordinates put it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.lexicon.embedding import normalised
from pipeline.manifest import grid_of

JUDGED = 0.5  # edge of the block whose correlation is told, as a share of the word's edge
SAMPLES = 12  # of a block along an axis
TINY = 1e-4


@dataclass(frozen=True)
class Pass:
    """One search: edge of the block and largest displacement, both as shares of the word's edge."""

    block: float
    reach: float


PASSES = (Pass(0.75, 0.3), Pass(0.5, 0.1), Pass(0.33, 0.05))
COST = 0.2  # correlation that a displacement by the whole reach costs


class Sampler:
    """Values of a stored scan at any places, [0, 1], read from no more of it than they span."""

    def __init__(self, store: Any, row: dict[str, Any]) -> None:
        self.store, self.scan_id, self.grid = store, row["scan_id"], grid_of(row)
        self.window = np.stack([np.asarray(row["window_low"]), np.asarray(row["window_high"])], -1)

    def __call__(self, centre_mm: np.ndarray, step_mm: np.ndarray, counts: tuple[int, int, int]) -> Tensor:
        """(C, *counts) float32, linear between voxels, at places step_mm (3,) apart along Right, Anterior, Superior around a centre."""
        axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(counts, step_mm, strict=True)]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), -1) + centre_mm
        index = self.grid.index(places)
        low = np.floor(index.min((0, 1, 2))).astype(int)
        size = np.ceil(index.max((0, 1, 2))).astype(int) - low + 2
        crop = normalised(self.store.crop(self.scan_id, tuple(map(int, low)), tuple(map(int, size))), self.window)
        relative = torch.from_numpy(2 * (index - low) / (size - 1) - 1).float().flip(-1)
        return F.grid_sample(torch.from_numpy(crop)[None], relative[None], align_corners=True, padding_mode="border")[0]


def find_place(
    reference: Sampler, reference_mm: np.ndarray, other: Sampler, start_mm: np.ndarray, edges_mm: np.ndarray
) -> tuple[np.ndarray, float]:
    """The place (3,) in ``other`` whose surroundings agree best with those of a place in ``reference``, and their correlation.

    edges_mm (3,): of the word's crop. The correlation, -1 to 1, is that of blocks of half its edges.
    """
    place = np.asarray(start_mm, dtype=np.float64)
    for search in PASSES:
        step = edges_mm * search.block / SAMPLES
        reach = tuple(int(n) for n in np.ceil(edges_mm * search.reach / step))
        block = reference(reference_mm, step, (SAMPLES,) * 3)
        area = other(place, step, tuple(SAMPLES + 2 * r for r in reach))
        place = place + step * best_shift(correlate(block, area), reach)
    size, step = (SAMPLES,) * 3, edges_mm * JUDGED / SAMPLES
    final = correlate(reference(reference_mm, step, size), other(place, step, size))
    return place, float(final)


def correlate(block: Tensor, area: Tensor) -> Tensor:
    """block (C, a, b, c), area (C, d, e, f) -> (d - a + 1, e - b + 1, f - c + 1): correlation at each displacement, channels together.

    Gaussian weights favour the block's middle: its centre is what is to be found. Where nothing varies the correlation is 0.
    """
    weights = gaussian(block.shape[1:])
    mean = (block * weights).sum((1, 2, 3), keepdim=True)
    centred = block - mean
    channels = len(block)
    shared = F.conv3d(area[None], (centred * weights)[None])[0, 0]
    kernel = weights.expand(channels, 1, *weights.shape)
    means = F.conv3d(area[None], kernel, groups=channels)[0]
    variance = (F.conv3d(area[None] ** 2, kernel, groups=channels)[0] - means**2).clamp(min=0).sum(0)
    own = (centred**2 * weights).sum()
    return shared / (own.clamp(min=TINY) * variance.clamp(min=TINY)).sqrt()


def gaussian(shape: torch.Size) -> Tensor:
    """(D, H, W), sum 1; deviation a third of each edge."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 3)) ** 2) for n in shape]
    weights = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None]
    return weights / weights.sum()


def best_shift(found: Tensor, reach: tuple[int, int, int]) -> np.ndarray:
    """(3,) displacement in steps with the largest correlation less its cost; between steps by a parabola along each axis."""
    axes = [(torch.arange(-r, r + 1) / max(r, 1)) ** 2 for r in reach]
    score = (found - COST / 3 * (axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None])).numpy()
    best = np.array(np.unravel_index(int(score.argmax()), score.shape))
    shift = best - np.array(reach, dtype=np.float64)
    for axis in range(3):
        if 0 < best[axis] < score.shape[axis] - 1:
            line = [score[tuple(best + sign * (np.arange(3) == axis))] for sign in (-1, 0, 1)]
            curve = line[0] - 2 * line[1] + line[2]
            shift[axis] += 0.0 if curve >= 0 else float(np.clip(0.5 * (line[0] - line[2]) / curve, -0.5, 0.5))
    return shift
