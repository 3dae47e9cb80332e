"""The labelled scans of a task: which they are, in which order they are given out, and their voxels in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.files import digest_of
from pipeline.keys import key
from pipeline.manifest import SPLITS
from pipeline.volumes.store import Store

CACHE_BYTES = 2 << 30
PLACES = 4096  # voxels remembered of each structure of a scan


def labelled_scans(manifest: pd.DataFrame, task: str) -> dict[str, pd.DataFrame]:
    """Rows with labels of a task, by split, sorted by scan id; a scan that repeats another labelled one is left out.

    A split without any is a ``ValueError``.
    """
    rows = manifest[[task in json.loads(labels or "{}") for labels in manifest["labels"]]]
    rows = rows[~rows["twin_of"].isin(set(rows["scan_id"]))].sort_values("scan_id", ignore_index=True)
    found = {split: rows[rows["split"] == split].reset_index(drop=True) for split in SPLITS}
    for split, part in found.items():
        if part.empty:
            left = f"{len(rows)} scans have any ({', '.join(rows['scan_id'][:20])}{', ...' if len(rows) > 20 else ''})"
            raise ValueError(
                f"manifest: no scan of the {split} split has labels of the task {task!r}, {left}; look at the task's `labels` folder, and "
                f"in quarantine.tsv for labels that were refused"
            )
    return found


def subset(scan_ids: list[str], count: int, seed: int) -> list[str]:
    """The first ``count`` scans of an order that depends on the seed only: a smaller set lies within a larger one."""
    return sorted(scan_ids, key=lambda scan_id: key(seed, "labelled", scan_id))[:count]


def data_digest(store: Store, scans: dict[str, pd.DataFrame], task: str) -> str:
    """sha256 over the voxels, labels, windows and split of every labelled scan."""
    seen = {
        row.scan_id: [split, row.cluster_id, *(store.meta(row.scan_id)["files"].get(name) for name in ("", f"{task}.labels")),
                      list(row.window_low), list(row.window_high)]
        for split, rows in scans.items() for row in rows.itertuples()
    }  # fmt: skip
    return digest_of(seen)


def normalised(stored: np.ndarray, window: np.ndarray) -> np.ndarray:
    """stored (C, D, H, W) int16, window (C, 2) -> float32 in [0, 1]."""
    low, high = (window[:, side, None, None, None].astype(np.float32) for side in (0, 1))
    return np.clip((stored.astype(np.float32) - low) / (high - low), 0.0, 1.0)


@dataclass
class LabelledVolumes:
    """Voxels and labels of scans. All are kept in memory if they fit ``cache_bytes``; else crops are read from the store."""

    store: Store
    task: str
    kind: Any
    rows: pd.DataFrame
    cache_bytes: int = CACHE_BYTES

    def __post_init__(self) -> None:
        self.shapes = {row.scan_id: self.store.shape(row.scan_id) for row in self.rows.itertuples()}
        self.windows = {
            row.scan_id: np.stack([np.asarray(row.window_low), np.asarray(row.window_high)], -1).astype(np.float64)
            for row in self.rows.itertuples()
        }
        for row in self.rows.itertuples():
            self.kind.check_values(json.loads(row.labels)[self.task], f"{self.task}: scan {row.scan_id}")
        self.channels = self._channels()
        needed = sum(shape[1] * shape[2] * shape[3] * (2 * shape[0] + 1) for shape in self.shapes.values())
        self.kept: dict[str, tuple[np.ndarray, np.ndarray]] | None = {} if needed <= self.cache_bytes else None
        self.places: dict[str, list[np.ndarray]] = {}

    def whole(self, scan_id: str) -> tuple[np.ndarray, np.ndarray]:
        """voxels (C, D, H, W) float32 in [0, 1], labels (D, H, W) uint8."""
        stored, labels = self._read(scan_id)
        return normalised(stored, self.windows[scan_id]), labels

    def crop(self, scan_id: str, low: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The same of a crop that begins at index ``low``; what lies outside the volume is 0."""
        if self.kept is None:
            index = tuple(int(n) for n in low)
            stored = self.store.crop(scan_id, index, size)
            return normalised(stored, self.windows[scan_id]), self.store.crop_labels(scan_id, self.task, index, size)
        stored, labels = self._read(scan_id)
        inner = [(max(0, a), min(n, a + s)) for a, s, n in zip(low, size, labels.shape, strict=True)]
        box = tuple(slice(a, b) for a, b in inner)
        pads = [(int(a - at), int(at + s - b)) for (a, b), at, s in zip(inner, low, size, strict=True)]
        voxels = np.pad(normalised(stored[(slice(None), *box)], self.windows[scan_id]), [(0, 0), *pads])
        return voxels, np.pad(labels[box], pads)

    def structures(self, scan_id: str) -> list[np.ndarray]:
        """Voxels (N, 3) of each class present in a scan, at most 4096 of each, evenly picked."""
        if scan_id not in self.places:
            labels = self._read(scan_id)[1]
            flat = [np.flatnonzero(labels == value) for value in self.kind.values[1:]]
            picked = [f[np.linspace(0, len(f) - 1, min(len(f), PLACES)).astype(np.int64)] for f in flat if len(f)]
            self.places[scan_id] = [np.stack(np.unravel_index(f, labels.shape), -1) for f in picked]
        return self.places[scan_id]

    def _channels(self) -> int:
        found = sorted({shape[0] for shape in self.shapes.values()})
        if len(found) > 1:
            raise ValueError(f"{self.task}: labelled scans have {found[0]} and {found[-1]} channels; set the study's `channels`")
        return found[0]

    def _read(self, scan_id: str) -> tuple[np.ndarray, np.ndarray]:
        if self.kept is not None and scan_id in self.kept:
            return self.kept[scan_id]
        pair = self.store.read(scan_id), self.store.labels(scan_id, self.task)
        if self.kept is not None:
            self.kept[scan_id] = pair
        return pair
