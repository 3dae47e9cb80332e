"""One embedding a scan: the mean of the encoder's pooled features over crops that cover the body, and how near two of them are.

Crops, not the whole scan, since the encoder's norms saw crops of that size in pretraining; and the mean, since larger scans need more of
them. A scan that is hardly larger than a crop gives one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from anatomy.words import crop_low
from pipeline.manifest import grid_of
from pipeline.step import Network

MAX_ALONG = 4  # crops along an axis
UNCOVERED = 0.25  # of a crop's edge that may stay uncovered along an axis
SHRINKAGE = 0.1
BATCH = 8


def embed(network: Network, store: Any, rows: pd.DataFrame, size_vox: tuple[int, int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """(number of crops, (C,) float32 embedding) of each row, in their order. ``network`` is in evaluation mode; no gradients."""
    device = next(network.parameters()).device
    for row in rows.to_dict("records"):
        lows = crop_lows(row, size_vox)
        window = np.stack([np.asarray(row["window_low"]), np.asarray(row["window_high"])], -1)
        total = np.zeros(network.widths[-1], dtype=np.float64)
        for first in range(0, len(lows), BATCH):
            crops = np.stack([store.crop(row["scan_id"], low, size_vox) for low in lows[first : first + BATCH]])
            with torch.inference_mode():
                pooled = network(torch.from_numpy(normalised(crops, window)).to(device), want=frozenset({"pooled"})).pooled
            total += pooled.double().sum(0).cpu().numpy()
        yield len(lows), (total / len(lows)).astype(np.float32)


def crop_lows(row: dict[str, Any], size_vox: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Where the crops of a scan begin: evenly spread over the body's box, at most ``MAX_ALONG`` along an axis, each inside the volume."""
    grid = grid_of(row)
    corners = np.array(list(itertools.product(*zip(row["body_low_mm"], row["body_high_mm"], strict=True))))
    ends = np.clip(grid.index(corners), -0.5, np.asarray(grid.shape) - 0.5)
    low, high = ends.min(0), ends.max(0)
    size = np.asarray(size_vox)
    along = np.clip(np.ceil((high - low) / size - UNCOVERED), 1, MAX_ALONG).astype(int)
    middle, reach = (low + high) / 2, np.maximum(0, (high - low - size) / 2)
    centres = [middle[a] + reach[a] * (np.linspace(-1, 1, n) if n > 1 else np.zeros(1)) for a, n in enumerate(along)]
    return [tuple(int(n) for n in crop_low(np.array(centre), size, grid.shape)) for centre in itertools.product(*centres)]


def normalised(voxels: np.ndarray, window: np.ndarray) -> np.ndarray:
    """(..., C, D, H, W) stored values, (C, 2) window -> float32 in [0, 1]."""
    low, high = window[:, 0, None, None, None], window[:, 1, None, None, None]
    return np.clip((voxels - low) / (high - low), 0.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Whitening:
    """Embeddings centred and decorrelated by what the training scans have: W = (S + shrinkage)^(-1/2), rows then of unit length.

    S (C, C) is their covariance; 10 % of it is replaced by its mean variance, for there may be fewer scans than features.
    """

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def of(cls, train: np.ndarray) -> Whitening:
        """train (N, C)."""
        train = train.astype(np.float64)
        centred = train - train.mean(0)
        covariance = centred.T @ centred / len(train)
        spread = max(float(np.trace(covariance)) / len(covariance), 1e-12)
        variances, directions = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * spread * np.eye(len(covariance)))
        return cls(train.mean(0), directions / np.sqrt(variances))

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, C) -> (n, C) of unit length, so that a product of two is their cosine."""
        points = (embeddings.astype(np.float64) - self.mean) @ self.matrix
        return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
