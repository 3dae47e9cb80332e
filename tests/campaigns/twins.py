"""How well are twins found? Every disguise of every volume, against all the others. Prints a table; ends with 0.

    .venv/bin/python tests/campaigns/twins.py > docs/twins.txt
    .venv/bin/python tests/campaigns/twins.py --only hippocampus,acdc --limit 40

Sensitivity: share of copies that are paired with their original. Specificity: share of the pairs (copy, another's volume) left alone.
Synthetic bodies come from formulas (tests/volumes/disguises); the real volumes are those in ../shared/data, where they are, and only
figures are printed of them. Volumes of one person are no false pair; they are counted by themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "volumes" / "disguises"))
from bodies import person  # noqa: E402
from disguises import DISGUISES  # noqa: E402

from anatomy.body import find_body  # noqa: E402
from pipeline.scans.formats.nifti import read_nifti  # noqa: E402
from pipeline.volumes import twins  # noqa: E402
from pipeline.volumes.fingerprint import Fingerprint, fingerprint  # noqa: E402
from pipeline.volumes.preparation import guess_modality  # noqa: E402
from pipeline.volumes.survey import survey  # noqa: E402
from pipeline.volumes.twins import find_twins, likeness  # noqa: E402
from pipeline.volumes.volume import Volume  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
REAL = {
    "hippocampus": ("msd_hippocampus/images/*.nii.gz", r"hippocampus_\d+"),
    "acdc": ("acdc/images/*.nii.gz", r"patient\d+"),
    "ibsi": ("ibsi_sts/*/*_image.nii.gz", r"STS_\d+"),
    "la2018": ("la2018/images/*.nii.gz", r"[^/]+$"),
}
Sets = Iterator[tuple[str, str, Volume]]


KNOWN: dict[bytes, float] = {}


def remembered(first: np.ndarray, second: np.ndarray) -> float:
    """``likeness``, which is asked of the same originals in every row."""
    key = hashlib.sha256(first.tobytes() + second.tobytes()).digest()
    if key not in KNOWN:
        KNOWN[key] = likeness(first, second)
    return KNOWN[key]


def prints(volume: Volume) -> Fingerprint:
    found = survey(volume.canonical())
    return fingerprint(found, find_body(found.blocks, guess_modality(volume.voxels)))


def synthetic(number: int) -> Sets:
    for seed in range(number):
        yield f"body{seed}", f"body{seed}", person(seed)


def real(name: str, limit: int) -> Sets:
    pattern, subject = REAL[name]
    for path in sorted(DATA.glob(pattern))[:limit]:
        found = re.search(subject, path.relative_to(DATA).as_posix().removesuffix(".nii.gz"))
        try:
            volume = read_nifti(str(path))
        except ValueError:
            continue
        if min(volume.grid.shape) >= 4:
            yield path.name, found[0] if found else path.name, volume


def campaign(name: str, volumes: Sets, copied: int) -> None:
    """Prints the table of one set: twins within it, then every disguise of ``copied`` of its volumes."""
    begun = time.monotonic()
    kept = list(volumes)
    if not kept:
        print(f"\n{name}: not here\n")
        return
    originals = {f"{number:04d}": prints(volume) for number, (_, _, volume) in enumerate(kept)}
    subject = {f"{number:04d}": who for number, (_, who, _) in enumerate(kept)}
    print(f"\n{name}: {len(kept)} volumes of {len(set(subject.values()))} persons")
    within = find_twins(originals)
    same = Counter(t.kind for t in within if subject[t.scan_a] == subject[t.scan_b])
    false = Counter(t.kind for t in within if subject[t.scan_a] != subject[t.scan_b])
    pairs = sum(a != b for a, b in itertools.combinations(subject.values(), 2))
    print(f"  pairs found as they are: {sum(false.values())} of {pairs} pairs of two persons ({told(false)}); of one person: {told(same)}")
    print(f"  {'disguise':48s} {'copies':>6s} {'found':>6s} {'sens.':>7s} {'false':>6s} {'spec.':>8s}  found by")
    chosen = [f"{int(n):04d}" for n in np.unique(np.linspace(0, len(kept) - 1, min(copied, len(kept))).round())]
    for kind, (disguise, change) in enumerate(DISGUISES.items()):
        row(disguise, kind, change, kept, chosen, originals, subject)
    print(f"  ({time.monotonic() - begun:.0f} s)", flush=True)


def row(disguise, kind, change, kept, chosen, originals, subject) -> None:
    copies = {}
    for scan in chosen:
        copy = change(kept[int(scan)][2].canonical(), np.random.default_rng([kind, int(scan)]))
        if min(copy.grid.shape) >= 4:
            copies[f"copy{scan}"] = prints(copy)
    found, by, false = 0, Counter(), 0
    for pair in find_twins({**originals, **copies}):
        if pair.scan_b not in copies or pair.scan_a in copies:
            continue
        if pair.scan_b == f"copy{pair.scan_a}":
            found += 1
            by[pair.kind] += 1
        elif subject[pair.scan_a] != subject[pair.scan_b.removeprefix("copy")]:
            false += 1
    others = sum(subject[a] != subject[b.removeprefix("copy")] for a in originals for b in copies)
    share = 1 - false / max(1, others)
    sens = found / max(1, len(copies))
    print(f"  {disguise:48s} {len(copies):6d} {found:6d} {sens:7.3f} {false:6d} {share:8.5f}  {told(by)}", flush=True)


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{kind} {number}" for kind, number in sorted(counts.items())) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="synthetic,hippocampus,acdc,ibsi,la2018", help="Sets, comma-separated.")
    parser.add_argument("--limit", type=int, default=400, help="Volumes of a real set.")
    parser.add_argument("--bodies", type=int, default=100, help="Synthetic bodies.")
    parser.add_argument("--copied", type=int, default=100, help="Volumes of a set that are disguised.")
    arguments = parser.parse_args()
    twins.likeness = remembered
    for name in arguments.only.split(","):
        volumes = synthetic(arguments.bodies) if name == "synthetic" else real(name, arguments.limit)
        campaign(name, volumes, arguments.copied)
    return 0


if __name__ == "__main__":
    sys.exit(main())
