"""Random crops of 96^3 from a store, the page cache warm, beside nnU-Net's store at its own settings: crops per second and disk.

    .venv/bin/python benchmarks/crops.py [--peers PYTHON] [--volumes 8] [--crops 100] [--rounds 7]

Volumes of 256^3 voxels, resampled from ``phantom_ct.py`` by the same filter for both. nnU-Net (its own ``save_case``, in an environment of
``--peers``) keeps them as float32, normalised; Vesalius as int16 with a body mask, whose disk is counted. nnU-Net opens a file for each
crop; what it would take with files kept open is shown too. Both read the same places, in one process and one thread, taking turns;
medians of CPU time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

SIDE, FINER, SIZE = 256, 320, 96
WRITE = """
import sys, numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
for path in sys.argv[2:]:
    data = np.load(path)[None] / np.float32(300)
    blocks, chunks = comp_blosc2_params(data.shape, (int(sys.argv[1]),) * 3, data.itemsize)
    nnUNetDatasetBlosc2.save_case(data, np.zeros(data.shape, np.int8), {}, path.removesuffix(".npy"), chunks, blocks)
"""


def write_both(folder: Path, count: int, peers: str) -> tuple[float, float]:
    """MB a volume of Vesalius and of nnU-Net's image file."""
    from phantom_ct import slices

    from anatomy.grid import Grid
    from pipeline.volumes.resample import resample, target_grid
    from pipeline.volumes.store import Store
    from pipeline.volumes.volume import Volume

    store = Store(folder / "store")
    for number in range(count):
        finer = np.stack(list(slices((FINER, FINER, FINER), number))).transpose(2, 1, 0)[::-1, ::-1]
        grid = Grid.of(finer.shape, (1.5 * SIDE / FINER,) * 3)
        voxels = resample(Volume(finer[None], grid), target_grid(grid, (1.5, 1.5, 1.5))).voxels
        meta = {"spacing_mm": [1.5] * 3, "affine": grid.affine.ravel().tolist(), "window_low": [-1000.0], "window_high": [1000.0]}
        stored = np.rint(voxels).astype(np.int16)
        store.write(f"scan{number}", stored, stored[0] > -500, {**meta, "slope": [1.0], "inter": [0.0]})
        np.save(folder / f"scan{number}.npy", voxels[0])
    raw = sorted(map(str, folder.glob("*.npy")))
    subprocess.run([peers, "-c", WRITE, str(SIZE), *raw], env=os.environ | {"PYTHONPATH": ""}, check=True, capture_output=True)
    ours = sum(path.stat().st_size for path in (folder / "store").rglob("*.b2nd"))
    theirs = sum((folder / f"scan{number}.b2nd").stat().st_size for number in range(count))
    return ours / count / 1e6, theirs / count / 1e6


def contestants(folder: Path, count: int) -> dict[str, Callable[[int, list[int]], np.ndarray]]:
    from pipeline.volumes.store import Store

    store = Store(folder / "store")

    def opened(number: int) -> blosc2.NDArray:
        return blosc2.open(str(folder / f"scan{number}.b2nd"), mode="r", mmap_mode="r", dparams={"nthreads": 1})

    kept = [opened(number) for number in range(count)]

    def window(low: list[int]) -> tuple[slice, ...]:
        return (slice(None), *(slice(start, start + SIZE) for start in low))

    return {
        "Vesalius": lambda number, low: store.crop(f"scan{number}", low, (SIZE,) * 3),
        "nnU-Net, opened each time": lambda number, low: opened(number)[window(low)],
        "nnU-Net, kept open": lambda number, low: kept[number][window(low)],
    }


def compete(found: dict[str, Callable[[int, list[int]], np.ndarray]], arguments: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a crop."""
    rng = np.random.default_rng(0)
    spent: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(arguments.rounds + 1):
        places = [(number % arguments.volumes, rng.integers(0, SIDE - SIZE, 3).tolist()) for number in range(arguments.crops)]
        for name, read in found.items():
            begun = time.process_time()
            for number, low in places:
                read(number, low)
            spent[name].append(1000 * (time.process_time() - begun) / len(places))
    return {name: statistics.median(times[1:]) for name, times in spent.items()}  # the first round warms the cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--crops", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours_mb, theirs_mb = write_both(Path(folder), arguments.volumes, arguments.peers)
        found = compete(contestants(Path(folder), arguments.volumes), arguments)
    print(f"{'':26} {'ms a crop':>10} {'crops/s':>8} {'x':>5} {'MB a volume':>12}")
    for name, ms in found.items():
        print(f"{name:26} {ms:10.2f} {1000 / ms:8.0f} {ms / found['Vesalius']:5.2f} {ours_mb if name == 'Vesalius' else theirs_mb:12.1f}")
    print(f"disk: {ours_mb / theirs_mb:.2f} of nnU-Net's image file (its segmentation file is not counted)")


if __name__ == "__main__":
    main()
