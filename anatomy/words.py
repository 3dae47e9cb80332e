"""Visual words as places: how far two crops overlap, where words may lie so that their crops don't tell the same, which instances stay.

A word is a place in body coordinates (Haghighi et al., IEEE TMI 2021, took one array index of every scan). Crops of two words that
share most of their voxels would carry contradictory labels, so places are chosen, and instances kept, by how far crops overlap.
All crops are boxes along the axes, given by centre and size in one unit, be it voxels or millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_OVERLAP = 0.5


def overlap(centre_a: np.ndarray, size_a: np.ndarray, centre_b: np.ndarray, size_b: np.ndarray) -> np.ndarray:
    """(..., 3) each, which broadcast -> (...): volume of the intersection over that of the smaller box, 0 to 1."""
    size_a, size_b = np.asarray(size_a, dtype=np.float64), np.asarray(size_b, dtype=np.float64)
    distance = np.abs(np.asarray(centre_a, dtype=np.float64) - np.asarray(centre_b, dtype=np.float64))
    shared = np.minimum(np.minimum(size_a, size_b), (size_a + size_b) / 2 - distance)
    return np.clip(shared, 0.0, None).prod(-1) / np.minimum(size_a.prod(-1), size_b.prod(-1))


def overlaps(centres: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(n, 3), (n, 3) -> (n, n): every pair's overlap."""
    return overlap(centres[:, None], sizes[:, None], centres[None], sizes[None])


def crop_low(centre_vox: np.ndarray, size_vox: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """(..., 3) -> (..., 3) int: first index of the crop around a place, moved so that it holds as much of the volume as it can."""
    centre, size, shape = np.round(centre_vox).astype(int), np.asarray(size_vox), np.asarray(shape)
    inside = np.clip(centre - size // 2, 0, np.maximum(0, shape - size))
    return np.where(shape >= size, inside, shape // 2 - size // 2)


def choose_places(candidates: Sequence[np.ndarray], sizes: np.ndarray, draws: Sequence[int], max_overlap: float = MAX_OVERLAP) -> list[int]:
    """One candidate a word, so that no two words' crops overlap by ``max_overlap`` or more.

    candidates: (m_i, 3) centres in random order for each of n words; sizes (n, 3). Each word takes that one of its first k open
    candidates that overlaps the earlier words least; k is the first of ``draws`` with which all words find a place: a small k leaves
    places random, a large one packs them. Returns n rows of the candidates. ``ValueError`` if no k does.
    """
    found = 0
    for draw in draws:
        chosen = _pack(candidates, sizes, draw, max_overlap)
        if len(chosen) == len(candidates):
            return chosen
        found = max(found, len(chosen))
    raise ValueError(
        f"words.num_words: only {found} of {len(candidates)} words find a place where crops overlap by less than {max_overlap:.0%}; "
        f"ask for {found} words or fewer, or for a smaller words.sizes_vox"
    )


def surest_apart(centres: np.ndarray, sizes: np.ndarray, confidence: np.ndarray, max_overlap: float = MAX_OVERLAP) -> np.ndarray:
    """(n, 3), (n, 3), (n,) instances of one scan -> (n,) bool: those that no surer kept one overlaps by ``max_overlap`` or more."""
    shared = overlaps(centres, sizes)
    keep = np.zeros(len(centres), dtype=bool)
    for instance in np.argsort(-confidence, kind="stable"):
        keep[instance] = not (shared[instance][keep] >= max_overlap).any()
    return keep


def _pack(candidates: Sequence[np.ndarray], sizes: np.ndarray, draw: int, max_overlap: float) -> list[int]:
    centres: list[np.ndarray] = []
    chosen: list[int] = []
    for word, places in enumerate(candidates):
        if centres:
            worst = overlap(places[:, None], sizes[word], np.stack(centres)[None], sizes[None, :word]).max(1)
        else:
            worst = np.zeros(len(places))
        open_ones = np.flatnonzero(worst < max_overlap)[:draw]
        if not len(open_ones):
            break
        best = int(open_ones[np.argmin(worst[open_ones])])
        chosen.append(best)
        centres.append(places[best])
    return chosen
