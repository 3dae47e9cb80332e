"""Twins: scans that repeat each other, under whatever name, spacing, crop, mirror, window or noise.

Three kinds, from proof to likeness:

- ``voxels``: equal digests;
- ``patches``: sketches share at least 8 hashes of patches: a crop, a re-stacked or re-saved series (similarity: share of the sketch);
- ``likeness``: thumbnails correlate at 0.82 or more after one is mirrored, turned by quarters, stretched and shifted onto the other.

Likeness is nominated by a perceptual hash, the signs of the 7^3 lowest frequencies of the thumbnail's cosine transform (a mirrored scan
only changes the signs of odd frequencies, a turned one their order), and confirmed by the correlation of what a band-pass leaves. Where
crops of a person's scan share neither voxels nor two thirds of their extent, nothing here can tell.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from pipeline.volumes.fingerprint import THUMBNAIL, Fingerprint
from pipeline.volumes.sketch import SKETCH

MIN_SHARED = 8
MIN_LIKENESS = 0.82  # the likest two persons reach 0.76 (docs/twins.txt), two bends of one template brain 0.81
NOMINEES = 8
MAX_COPIES = 16
FREQUENCIES = 7
BAND = 2.5  # thumbnail voxels: what is smoother than this is common to all bodies
GIVE_UP = 0.4
MIN_WINDOW = 32  # ranks that must be left between a lowest and a highest plateau
MIN_OVERLAP = 20  # of 32 thumbnail voxels along each axis
POSES = tuple(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))  # axis order, mirroring
Pose = tuple[tuple[int, ...], tuple[int, ...]]
Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]  # (K, 32, 32) matrices, (K, 32) valid rows, (K, 2) scale and shift


@dataclass(frozen=True, order=True)
class Twin:
    """A pair, scan_a < scan_b; similarity in [0, 1] has another meaning for each kind."""

    scan_a: str
    scan_b: str
    kind: str
    similarity: float


def read_twins(path: Path) -> list[Twin]:
    """The pairs in the ``twins.tsv`` that ``vesalius split`` wrote; a missing file is a ``ValueError``."""
    if not path.exists():
        raise ValueError(f"{path}: is missing, so nobody can tell which scans repeat each other; run `vesalius split {path.parent}` again")
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return [Twin(a, b, kind, float(similarity)) for a, b, kind, similarity in rows]


def find_twins(prints: dict[str, Fingerprint]) -> list[Twin]:
    """All pairs by scan id, sorted; each pair once, by its strongest kind. Of many equal copies only a chain of pairs is listed."""
    ids = sorted(prints)
    found: dict[tuple[str, str], Twin] = {}
    for group in _groups((prints[scan].digest, scan) for scan in ids).values():
        for a, b in _linked(group):
            found[a, b] = Twin(a, b, "voxels", 1.0)
    shared: dict[tuple[str, str], int] = defaultdict(int)
    for group in _groups((value, scan) for scan in ids for value in prints[scan].sketch.tolist()).values():
        for pair in _linked(group):
            shared[pair] += 1
    for (a, b), count in shared.items():
        if count >= MIN_SHARED and (a, b) not in found:
            found[a, b] = Twin(a, b, "patches", round(count / min(len(prints[a].sketch), len(prints[b].sketch), SKETCH), 4))
    thumbnails = np.stack([prints[scan].thumbnail for scan in ids]) if ids else np.empty((0,) * 4, dtype=np.uint8)
    for first, second, pose in nominate(thumbnails):
        a, b = ids[first], ids[second]
        if (a, b) not in found:
            similarity = likeness(thumbnails[first], posed(thumbnails[second], pose))
            if similarity >= MIN_LIKENESS:
                found[a, b] = Twin(a, b, "likeness", round(similarity, 4))
    return sorted(found.values())


def posed(thumbnail: np.ndarray, pose: Pose) -> np.ndarray:
    """The thumbnail with its axes in another order, then mirrored."""
    order, flip = pose
    return thumbnail.transpose(order)[:: flip[0], :: flip[1], :: flip[2]]


def nominate(thumbnails: np.ndarray, block: int = 1024) -> list[tuple[int, int, Pose]]:
    """(N, 32, 32, 32) -> pairs (i < j) with the pose of j that fits best: each scan's 8 nearest by perceptual hash."""
    if len(thumbnails) < 2:
        return []
    hashes = np.stack([perceptual_hash(thumbnail) for thumbnail in thumbnails])
    ranks, signs = _posed_hashes()
    pairs: dict[tuple[int, int], Pose] = {}
    for start in range(0, len(hashes), block):
        rows = hashes[start : start + block]
        best = np.full((len(rows), len(hashes)), -np.inf, dtype=np.float32)
        pose = np.zeros(best.shape, dtype=np.int8)
        for number, (rank, sign) in enumerate(zip(ranks, signs, strict=True)):
            agreement = rows @ (hashes[:, rank] * sign).T
            closer = agreement > best
            best[closer], pose[closer] = agreement[closer], number
        best[np.arange(len(rows)), start + np.arange(len(rows))] = -np.inf
        nearest = np.argsort(-best, axis=1, kind="stable")[:, : min(NOMINEES, len(hashes) - 1)]
        for row, columns in enumerate(nearest):
            for column in columns:
                i, j, found = start + row, int(column), POSES[pose[row, column]]
                pairs.setdefault((min(i, j), max(i, j)), found if i < j else _inverse(found))
    return [(*pair, pose) for pair, pose in sorted(pairs.items())]


def _posed_hashes() -> tuple[np.ndarray, np.ndarray]:
    """For each pose (48, 342): which coefficient of a thumbnail its posed hash takes, and with which sign."""
    index = np.arange(FREQUENCIES**3).reshape((FREQUENCIES,) * 3)
    parity = np.indices((FREQUENCIES,) * 3) % 2
    ranks = [index.transpose(order).ravel()[1:] - 1 for order, _ in POSES]
    signs = [np.prod([np.where(parity[a] == 1, flip[a], 1) for a in range(3)], axis=0).ravel()[1:] for _, flip in POSES]
    return np.stack(ranks), np.stack(signs).astype(np.float32)


def _inverse(pose: Pose) -> Pose:
    """The pose that undoes one: ``posed(posed(x, p), _inverse(p)) == x``."""
    order, flip = pose
    back = tuple(int(axis) for axis in np.argsort(order))
    return back, tuple(flip[axis] for axis in back)


def perceptual_hash(thumbnail: np.ndarray) -> np.ndarray:
    """(32, 32, 32) -> (342,) float32 of -1 and 1."""
    low = dctn(thumbnail.astype(np.float64) - thumbnail.mean(), norm="ortho")[(slice(0, FREQUENCIES),) * 3]
    return np.where(low.ravel()[1:] > 0, 1.0, -1.0).astype(np.float32)


def likeness(first: np.ndarray, second: np.ndarray, sweeps: int = 3) -> float:
    """Correlation in [-1, 1] of two band-passed thumbnails once the second is stretched (x 0.7 to 1.4) and shifted onto the first.

    Axes are fitted in turn: with the others fixed, correlation for any 32 x 32 resampling matrix follows from two Gram matrices.
    """
    a, b = (_band(thumbnail) for thumbnail in _as_windowed(first, second))
    fits = [(np.eye(THUMBNAIL), np.ones(THUMBNAIL, dtype=bool), np.array([1.0, 0.0]))] * 3
    score = 0.0
    for sweep in range(sweeps):
        for axis in range(3):
            candidates = _COARSE if sweep == 0 else _fine(fits[axis][2])
            scores = _scores(a, b, fits, axis, candidates)
            best = int(scores.argmax())
            fits[axis] = tuple(part[best] for part in candidates)
            score = float(scores[best])
        if score < GIVE_UP:
            break
    return score


def _scores(a: np.ndarray, b: np.ndarray, fits: list[tuple[np.ndarray, ...]], axis: int, candidates: Candidates) -> np.ndarray:
    """(K,) correlations over the overlap; less overlap than MIN_OVERLAP counts as none."""
    matrices, valid, _ = candidates
    for other in range(3):
        if other != axis:
            b = np.moveaxis(np.tensordot(fits[other][0], b, (1, other)), 0, other)
            a = a * fits[other][1].reshape([-1 if dim == other else 1 for dim in range(3)])
    rows_a = np.moveaxis(a, axis, 0).reshape(THUMBNAIL, -1)
    rows_b = np.moveaxis(b, axis, 0).reshape(THUMBNAIL, -1)
    product = np.einsum("kij,ij->k", matrices, rows_a @ rows_b.T)
    energy_b = np.einsum("kij,kij->k", matrices @ (rows_b @ rows_b.T), matrices)
    energy_a = valid @ np.square(rows_a).sum(axis=1)
    enough = valid.sum(axis=1) >= MIN_OVERLAP
    return np.where(enough, product / np.sqrt(np.maximum(energy_a * energy_b, 1e-12)), -1.0)


def _candidates(scales: np.ndarray, shifts: np.ndarray) -> Candidates:
    scale, shift = (grid.ravel() for grid in np.meshgrid(scales, shifts, indexing="ij"))
    index = np.arange(THUMBNAIL)
    centre = (THUMBNAIL - 1) / 2
    position = (index - centre) * scale[:, None] + centre + shift[:, None]
    valid = (position >= 0) & (position <= THUMBNAIL - 1)
    matrices = np.clip(1.0 - np.abs(position[:, :, None] - index), 0.0, None) * valid[:, :, None]
    return matrices, valid, np.stack([scale, shift], axis=1)


def _fine(around: np.ndarray) -> Candidates:
    return _candidates(around[0] * np.geomspace(0.96, 1 / 0.96, 9), around[1] + np.linspace(-1, 1, 9))


def _as_windowed(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, cut off where either was: a display window shows as a share of voxels of one lowest and one highest rank."""
    low = 2.0 * max(first.min(), second.min())
    high = 2.0 * min(first.max(), second.max()) - 255.0
    if high - low < MIN_WINDOW:
        return first.astype(np.float64), second.astype(np.float64)
    ends = [np.where(ranks >= high, (high + 255) / 2, np.where(ranks <= low, low / 2, ranks)) for ranks in (first, second)]
    return ends[0], ends[1]


def _band(thumbnail: np.ndarray) -> np.ndarray:
    values = thumbnail.astype(np.float64)
    return values - gaussian_filter(values, BAND)


def _groups(items: object) -> dict[object, list[str]]:
    groups: dict[object, list[str]] = defaultdict(list)
    for key, scan in items:
        groups[key].append(scan)
    return {key: scans for key, scans in groups.items() if len(scans) > 1}


def _linked(scans: list[str]) -> list[tuple[str, str]]:
    return list(itertools.combinations(scans, 2)) if len(scans) <= MAX_COPIES else list(itertools.pairwise(scans))


_COARSE = _candidates(np.geomspace(0.7, 1 / 0.7, 15), np.linspace(-5, 5, 11))
