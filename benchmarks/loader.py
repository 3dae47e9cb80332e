"""From the store to a batch that is ready to be copied to a device: crops a second of one core, 96^3 voxels int16.

Volumes of 256^3 voxels, the page cache warm. Beside the whole loader stand its parts and what it might have been: python-blosc2's own
slice of the same file, and a copy of an uncompressed array in memory, which no store can beat. CPU time; candidates take turns.

    OMP_NUM_THREADS=1 python benchmarks/loader.py
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.device._run import Run, recipe_of, study
from pipeline import plugins
from pipeline.training.loading.loader import Loader
from pipeline.volumes.store import Store

SIDE, BATCH, VOLUMES, SEVERAL = 96, 8, 8, 4


def candidates(run: Run) -> dict[str, Callable[[int], None]]:
    """Each reads the batch of a number."""
    root, rows, _ = study(run, count=VOLUMES)
    store, size = Store(root), (SIDE,) * 3
    name, values = plugins.only(recipe_of(run, "models_genesis", {"unet": {}}).crops, "crops")
    crops = plugins.load("crops", name)(plugins.settings("crops", name, values), rows, None, 0)
    loader = Loader(store, rows, crops, size, size, BATCH)
    wide = Loader(store, rows, crops, size, tuple(n + 12 for n in size), BATCH)
    several = plugins.settings("crops", name, {**values, "per_read": SEVERAL})
    near = Loader(store, rows, plugins.load("crops", name)(several, rows, None, 0), size, size, BATCH)
    ids, out = rows["scan_id"].tolist(), np.empty((BATCH, 1, *size), np.int16)
    plain = {scan: store.read(scan) for scan in ids}
    lows = np.random.default_rng(0).integers(0, 256 - SIDE, (64 * BATCH, 3)).tolist()

    def each(read: Callable) -> Callable[[int], None]:
        def batch(number: int) -> None:
            for j in range(BATCH):
                read(ids[(number * BATCH + j) % VOLUMES], lows[(number * BATCH + j) % len(lows)], out[j])

        return batch

    def sliced(scan: str, low: list[int], to: np.ndarray) -> None:
        to[...] = store._open(scan, "")._array[(slice(None), *(slice(a, a + SIDE) for a in low))]

    def copied(scan: str, low: list[int], to: np.ndarray) -> None:
        to[...] = plain[scan][(slice(None), *(slice(a, a + SIDE) for a in low))]

    return {
        "the loader, 96^3": lambda number: loader.region(number * BATCH),
        "the loader, 108^3 (a view's margin)": lambda number: wide.region(number * BATCH),
        f"the loader, 96^3, {SEVERAL} crops a read": lambda number: near.region(number * BATCH),
        "the store's crop": each(lambda scan, low, to: store.crop(scan, low, size, out=to)),
        "python-blosc2's slice": each(sliced),
        "a copy in memory": each(copied),
        "where to read": lambda number: [crops.draw(number * BATCH + j) for j in range(BATCH)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        run = Run("cpu", False, Path(scratch), Path(scratch) / "notes.json")
        run.tiny, run.side, run.size = False, SIDE, (SIDE,) * 3
        work = candidates(run)
        times: dict[str, list[float]] = {name: [] for name in work}
        for number in range(rounds + 2):
            for name, read in work.items():
                begun = time.process_time()
                read(number)
                times[name].append((time.process_time() - begun) / BATCH * 1e3)
    print(f"{'candidate':<38} {'ms/crop':>8} {'crops/s':>8}")
    for name, spent in times.items():
        median = statistics.median(spent[2:])
        print(f"{name:<38} {median:>8.3f} {1e3 / median:>8.0f}")


if __name__ == "__main__":
    main()
