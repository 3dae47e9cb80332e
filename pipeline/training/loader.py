"""From crops in a store to regions: what to read is a pure function of the step, so a resumed run reads the same.

Background threads read the next batches while the current one trains; there are no worker processes and no queues to lose. Crops are
decoded by C code that lets Python run on, straight into memory that batches share: pinned where a GPU takes them.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.step import Ids, Places, Region
from pipeline.training.buffers import Buffers, pinned

AHEAD = 2
MOST_READERS = 8


class Loader:
    """Batches of regions from manifest rows. ``crops`` says where, ``region_vox`` how much the views need together.

    ``batch`` counts the samples of all ranks; ``share`` are the places in a batch that this rank reads (all of them by default).
    """

    def __init__(
        self,
        store: Any,
        rows: pd.DataFrame,
        crops: Any,
        size_vox: tuple[int, ...],
        region_vox: tuple[int, ...],
        batch: int,
        share: range | None = None,
    ) -> None:
        self.store, self.rows, self.crops, self.batch = store, rows.reset_index(drop=True), crops, batch
        self.share = range(batch) if share is None else share
        self.size_vox, self.region_vox = tuple(size_vox), tuple(region_vox)
        self.scan_ids = self.rows["scan_id"].tolist()
        self.affines = [np.asarray(a, dtype=np.float64).reshape(4, 4) for a in self.rows["affine"]]
        self.shapes = [tuple(int(n) for n in s) for s in self.rows["shape"]]
        clusters = sorted(set(self.rows["cluster_id"]))
        self.clusters = [clusters.index(c) for c in self.rows["cluster_id"]]
        self.windows = [
            np.stack([np.asarray(low), np.asarray(high)], -1) for low, high in zip(rows["window_low"], rows["window_high"], strict=True)
        ]
        self.bodies = [body_matrix(low, high) for low, high in zip(rows["body_low_mm"], rows["body_high_mm"], strict=True)]

        self.buffers, self.readers = Buffers(), ThreadPoolExecutor(num_readers(), "crop")

    def region(self, first: int) -> Region:
        """This rank's share of the batch of samples first, first + 1, ...: reads the store."""
        voxels = self.buffers.take((len(self.share), len(self.windows[0]), *self.region_vox))
        made = self.readers.map(self._read, [first + j for j in self.share], voxels.numpy())
        return pinned(self._collate(list(made), voxels))

    def batches(self, step: int, num_steps: int) -> Iterator[Region]:
        """Regions of the steps step, step + 1, ..., num_steps - 1, read ahead."""
        with ThreadPoolExecutor(1, "loader") as pool:
            pending: list[Future[Region]] = []
            ahead = step
            for _ in range(step, num_steps):
                while ahead < num_steps and len(pending) < AHEAD:
                    pending.append(pool.submit(self.region, ahead * self.batch))
                    ahead += 1
                yield pending.pop(0).result()

    def _read(self, sample: int, out: np.ndarray) -> dict[str, Any]:
        """One crop into ``out`` (C, *region_vox), and what is known of it."""
        crop = self.crops.draw(sample)
        row = crop.row
        scale = np.asarray(crop.read_vox, dtype=np.float64) / np.asarray(self.size_vox)
        read = np.maximum(1, np.round(np.asarray(self.region_vox) * scale)).astype(int)
        low = np.asarray(crop.centre_vox) - read // 2
        fits = tuple(read) == self.region_vox
        voxels = self.store.crop(self.scan_ids[row], low.tolist(), read.tolist(), out=out if fits else None)
        affine = self.affines[row].copy()
        affine[:3, 3] += affine[:3, :3] @ low
        inside = np.stack([np.clip(-low, 0, read), np.clip(np.asarray(self.shapes[row]) - low, 0, read)], -1)
        if not fits:
            out[...], affine, inside = resized(voxels, affine, inside, self.region_vox)
        return {"affine": affine, "inside": inside, "row": row, "sample": sample, "words": crop.words}

    def _collate(self, items: list[dict[str, Any]], voxels: torch.Tensor) -> Region:
        rows = [item["row"] for item in items]
        ids = Ids(_long([item["sample"] for item in items]), _long(rows), _long([self.clusters[row] for row in rows]))
        return Region(
            voxels=voxels,
            window=torch.from_numpy(np.stack([self.windows[row] for row in rows]).astype(np.float32)),
            affine=torch.from_numpy(np.stack([item["affine"] for item in items])),
            body=torch.from_numpy(np.stack([self.bodies[row] for row in rows])),
            inside=torch.from_numpy(np.stack([item["inside"] for item in items]).astype(np.int64)),
            ids=ids,
            places=_places([item["words"] for item in items]),
            size_vox=self.size_vox,
        )


def num_readers() -> int:
    """Threads that read: one on a CPU, which has its steps to compute; with a GPU as many as the process may use, but for its own."""
    return max(1, min(MOST_READERS, len(os.sched_getaffinity(0)) - 1)) if torch.cuda.is_available() else 1


def body_matrix(low_mm: Any, high_mm: Any) -> np.ndarray:
    """(4, 4): RAS+ mm to body coordinates, 0 to 1 inside the body's box."""
    low, high = np.asarray(low_mm, dtype=np.float64), np.asarray(high_mm, dtype=np.float64)
    extent = np.maximum(high - low, 1e-6)
    matrix = np.diag([*(1.0 / extent), 1.0])
    matrix[:3, 3] = -low / extent
    return matrix


def resized(voxels: np.ndarray, affine: np.ndarray, inside: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crop of another size, linearly resampled over the same outer faces: for words larger or smaller than the network's crop."""
    ratio = np.asarray(voxels.shape[1:]) / np.asarray(size)
    values = torch.nn.functional.interpolate(
        torch.from_numpy(voxels[None].astype(np.float32)), size=size, mode="trilinear", align_corners=False
    )
    moved = affine.copy()
    moved[:3, :3] = affine[:3, :3] * ratio
    moved[:3, 3] = affine[:3, 3] + affine[:3, :3] @ (ratio / 2 - 0.5)
    bounds = np.clip(np.round(inside / ratio[:, None]), 0, np.asarray(size)[:, None]).astype(int)
    return values[0].round().to(torch.int16).numpy(), moved, bounds


def _places(words: list[Any]) -> Places:
    count, width = len(words), max(1, max(len(w) for w in words))
    mm = torch.zeros(count, width, 3, dtype=torch.float64)
    word = torch.zeros(count, width, dtype=torch.int64)
    size, confidence = torch.zeros(count, width), torch.zeros(count, width)
    valid = torch.zeros(count, width, dtype=torch.bool)
    for i, entries in enumerate(words):
        for j, (number, x, y, z, size_mm, sure) in enumerate(entries):
            mm[i, j] = torch.tensor([x, y, z], dtype=torch.float64)
            word[i, j], size[i, j], confidence[i, j], valid[i, j] = int(number), size_mm, sure, True
    return Places(mm, word, size, confidence, valid)


def _long(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)
