"""The disk that a store will need, said before it is written.

An upper bound from shapes and spacings alone: nothing is cropped, voxels are int16 at ``PACKED`` of their size, masks (body, labels) bytes
at ``MASK`` of theirs, and ``SCAN_BYTES`` for what is small. Measured on MR, CT and PET of four public sets (10 volumes): 0.64 to 0.89 where
a volume is larger than a chunk, 0.7 % to 4.7 %, and 32 to 36 kB; two crops smaller than a chunk took 1.22 of their size, which
``SCAN_BYTES`` covers. Checkpoints of runs are not counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

PACKED = 0.9
MASK = 0.05
SCAN_BYTES = 96_000
Scan = tuple[Sequence[int], Sequence[float], int]


def store_bytes(scans: Iterable[Scan], spacing_mm: Sequence[float] | str) -> int:
    """Of (shape, spacing in mm, number of label volumes) a scan, stored at a spacing in mm or ``native``."""
    total = 0.0
    for shape, spacing, labels in scans:
        target = spacing if isinstance(spacing_mm, str) else spacing_mm
        voxels = np.prod([max(1.0, np.ceil(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True)])
        total += voxels * (2 * PACKED + (1 + labels) * MASK) + SCAN_BYTES
    return int(total)


def used_bytes(folder: Path) -> int:
    """What the files below a folder take; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def free_bytes(folder: Path) -> int:
    """On the disk where a folder is, or will be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def told(number: int) -> str:
    """Bytes in words: 12.3 GB."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB")):
        if number >= 10**power:
            return f"{number / 10**power:.1f} {unit}"
    return f"{number / 1000:.0f} kB"
