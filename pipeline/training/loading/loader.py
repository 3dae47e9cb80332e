"""From crops in a store to regions: what to read is a pure function of the step, so a resumed run reads the same.

Background threads read the next batches while the current one trains; there are no worker processes and no queues to lose. Crops are
decoded by C code that lets Python run on, straight into memory that batches share: pinned where a GPU takes them. A crop that cannot be
read has a substitute (``substitutes.py``).
"""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.step import Ids, Places, Region
from pipeline.training.injection import Faults
from pipeline.training.loading.ahead import read_ahead
from pipeline.training.loading.boxes import Place, Scratch, together
from pipeline.training.loading.buffers import Batches, pinned
from pipeline.training.loading.substitutes import Substitutes, Unread

AHEAD = 2
MOST_READERS = 8
KNOWN_BATCHES = 4  # of which it is remembered where they lie: a batch asks for that more than once


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
        self.affines = np.stack([np.asarray(a, dtype=np.float64).reshape(4, 4) for a in self.rows["affine"]])
        self.shapes = np.stack([np.asarray(shape, dtype=np.int64) for shape in self.rows["shape"]])
        clusters = sorted(set(self.rows["cluster_id"]))
        self.clusters = [clusters.index(c) for c in self.rows["cluster_id"]]
        self.windows = [
            np.stack([np.asarray(low), np.asarray(high)], -1) for low, high in zip(rows["window_low"], rows["window_high"], strict=True)
        ]
        self.drawn = lru_cache(maxsize=KNOWN_BATCHES * batch)(self._drawn)
        self.substitutes = Substitutes(self.scan_of)
        self.faults = Faults()
        self.buffers, self.scratch = Batches(), Scratch()
        self._pool: ThreadPool | None = None
        self._reading: dict[int, str] = {}  # by thread
        self._last_read = "nothing yet"
        self.bodies = [body_matrix(low, high) for low, high in zip(rows["body_low_mm"], rows["body_high_mm"], strict=True)]

    @property
    def reading(self) -> str:
        """The scans that are being read, or the last one that was."""
        return ", ".join(sorted(set(self._reading.values()))) or self._last_read

    def region(self, first: int) -> Region:
        """This rank's share of the batch of samples first, first + 1, ...: reads the store."""
        samples = [first + j for j in self.share]
        voxels = self.buffers.take((len(samples), len(self.windows[0]), *self.region_vox))
        out = voxels.numpy()
        runs = together([self.drawn(sample)[1] for sample in samples])
        made = self._spread([(box, [(samples[n], out[n]) for n in members]) for box, members in runs])
        return pinned(self._collate([item for items in made for item in items], voxels))

    def _spread(self, runs: list[tuple[Place, list]]) -> list[list[dict[str, Any]]]:
        """Over threads, where there are several. Those are daemons: one that hangs in a system call keeps nobody from ending."""
        if num_readers() == 1:
            return [self._read_run(run) for run in runs]
        if self._pool is None:
            self._pool = ThreadPool(num_readers())
        return self._pool.map(self._read_run, runs, chunksize=1)

    def batches(self, step: int, num_steps: int, first_sample: int = 0, patience_s: float = 600.0) -> Iterator[Region]:
        """Regions of the steps step, step + 1, ..., num_steps - 1, read ahead; step 0 begins with sample ``first_sample``."""

        def make(number: int) -> Region:
            self.faults.at("read", number)
            return self.region(first_sample + number * self.batch)

        yield from read_ahead(make, range(step, num_steps), AHEAD, patience_s, lambda: f"scan {self.reading}")

    def scan_of(self, sample: int) -> str:
        """The scan that a sample's crop lies in."""
        return self.scan_ids[self.drawn(sample)[1].row]

    def unread(self, samples: range) -> list[Unread]:
        """Which of this rank's samples among these others took the place of."""
        return self.substitutes.take(samples)

    def _drawn(self, sample: int) -> tuple[Any, Place]:
        """A sample's crop, and what is read for it: the region that views need around it."""
        crop = self.crops.draw(sample)
        edges = zip(self.region_vox, crop.read_vox, self.size_vox, strict=True)
        read = tuple(max(1, round(region * (edge / size))) for region, edge, size in edges)
        return crop, Place(crop.row, tuple(int(c) - n // 2 for c, n in zip(crop.centre_vox, read, strict=True)), read)

    def _read_run(self, run: tuple[Place, list[tuple[int, np.ndarray]]]) -> list[dict[str, Any]]:
        """Crops of a scan that lie close to each other. If their box cannot be read, each is tried by itself."""
        place, members = run
        ready = None
        self._reading[threading.get_ident()] = self.scan_ids[place.row]
        if len(members) > 1:
            with suppress(OSError, ValueError):
                box = self.scratch.take((len(self.windows[0]), *place.size))
                ready = place, self.store.crop(self.scan_ids[place.row], place.low, place.size, out=box)
        items = [self.substitutes.read(lambda number, out=out: self._read(number, out, ready), sample) for sample, out in members]
        self._last_read = self._reading.pop(threading.get_ident())
        return items

    def _read(self, sample: int, out: np.ndarray, ready: tuple[Place, np.ndarray] | None = None) -> dict[str, Any]:
        """One crop into ``out`` (C, *region_vox), and what is known of it; from a box that is ready, if it lies there."""
        crop, place = self.drawn(sample)
        self._reading[threading.get_ident()] = self.scan_ids[place.row]
        fits = place.size == self.region_vox
        if ready is not None and place in ready[0]:
            voxels = ready[1][(slice(None), *ready[0].window(place))]
            if fits:
                out[...] = voxels
        else:
            voxels = self.store.crop(self.scan_ids[place.row], place.low, place.size, out=out if fits else None)
        if not fits:
            out[...] = resized(voxels, self.region_vox)
        return {"place": place, "sample": sample, "words": crop.words}

    def _collate(self, items: list[dict[str, Any]], voxels: torch.Tensor) -> Region:
        places = [item["place"] for item in items]
        rows = [place.row for place in places]
        affine, inside = geometry(places, self.affines[rows], self.shapes[rows], self.region_vox)
        return Region(
            voxels=voxels,
            window=torch.from_numpy(np.stack([self.windows[row] for row in rows]).astype(np.float32)),
            affine=torch.from_numpy(affine),
            body=torch.from_numpy(np.stack([self.bodies[row] for row in rows])),
            inside=torch.from_numpy(inside),
            ids=Ids(_long([item["sample"] for item in items]), _long(rows), _long([self.clusters[row] for row in rows])),
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


def resized(voxels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A crop of another size, linearly resampled over the same outer faces: for words larger or smaller than the network's crop."""
    first, second, third = (_linear(n, wanted) for n, wanted in zip(voxels.shape[1:], size, strict=True))
    values = voxels.astype(np.float32) @ third.T
    values = first @ (second @ values).reshape(*voxels.shape[:2], -1)
    return values.round().astype(np.int16).reshape(-1, *size)


@lru_cache(maxsize=256)
def _linear(count: int, wanted: int) -> np.ndarray:
    """(wanted, count): each row mixes the two voxels beside a place. Small matrices take a fifth of the time of PyTorch's interpolation."""
    place = np.clip((np.arange(wanted) + 0.5) * count / wanted - 0.5, 0, count - 1)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(count))).astype(np.float32)


def geometry(places: list[Place], affine: np.ndarray, shape: np.ndarray, region_vox: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Of regions: affines (B, 4, 4), and the index ranges (B, 3, 2) int64 that lie inside their volumes, given those volumes' affines
    and shapes (B, 3). Regions read in another size were resampled over the same outer faces."""
    low, read = (np.array([getattr(place, name) for place in places]) for name in ("low", "size"))
    ratio, turn, affine = read / region_vox, affine[:, :3, :3], affine.copy()
    for first in (low, ratio / 2 - 0.5):
        affine[:, :3, 3] += (turn @ first[:, :, None])[:, :, 0]
    affine[:, :3, :3] = turn * ratio[:, None]
    inside = np.stack([np.clip(-low, 0, read), np.clip(shape - low, 0, read)], -1)
    return affine, np.clip(np.round(inside / ratio[:, :, None]), 0, np.array(region_vox)[:, None]).astype(np.int64)


def _places(words: list[Any]) -> Places:
    count, width = len(words), max(1, max(len(w) for w in words))
    known = np.zeros((count, width, 6))
    valid = np.zeros((count, width), bool)
    for row, entries in enumerate(words):
        if entries:
            known[row, : len(entries)], valid[row, : len(entries)] = entries, True
    word, *_, size_mm, confidence = np.moveaxis(known, -1, 0)
    found = (known[..., 1:4], word.astype(np.int64), size_mm.astype(np.float32), confidence.astype(np.float32), valid)
    return Places(*(torch.from_numpy(np.ascontiguousarray(values)) for values in found))


def _long(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)
