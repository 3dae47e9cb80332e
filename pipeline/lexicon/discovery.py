"""Discovery of visual words: a random place of a reference scan, found again in the scans that are most like it.

After Haghighi et al. (IEEE TMI 2021), section on self-discovery, with four changes: a word is a place in body coordinates, not an array
index; it is looked for near there (``lexicon.matching``); crops of two words overlap by less than half; an instance has a confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from anatomy.body import from_body, to_body
from anatomy.words import choose_places, crop_low, surest_apart
from pipeline.keys import key, permutation, uniform
from pipeline.lexicon.embedding import Whitening
from pipeline.lexicon.matching import Sampler, find_place
from pipeline.manifest import grid_of

CANDIDATES = 512  # places a word may choose from
DRAWS = (1, 4, 16, 64, CANDIDATES)
MIN_BODY = 0.5  # share of a reference crop that shows the body
LEAST_INSTANCES = 2


@dataclass(frozen=True)
class Search:
    """Settings of a lexicon, as in a recipe's ``words``, and its seed."""

    num_words: int
    sizes_vox: tuple[tuple[int, int, int], ...]
    neighbours: float
    min_confidence: float
    seed: int


@dataclass(frozen=True)
class Word:
    """A word: its number, its reference (a row), its place there in RAS+ mm and in body coordinates, the edges of its crop in mm."""

    word_id: int
    reference: dict[str, Any]
    place_mm: np.ndarray
    body: np.ndarray
    edges_mm: np.ndarray

    @property
    def size_mm(self) -> float:
        """Geometric mean of the edges."""
        return float(np.cbrt(self.edges_mm.prod()))


def discover(
    rows: pd.DataFrame, embeddings: np.ndarray, store: Any, search: Search, advance: Callable[[], None] = lambda: None
) -> tuple[pd.DataFrame, list[Word], int]:
    """Lexicon, its words, and how many instances were left out because a surer one overlaps them by half or more.

    rows: manifest rows of train and validation, (N, C) their embeddings. ``advance`` is called after each word.
    """
    train = np.flatnonzero(rows["split"] == "train")
    held = np.flatnonzero(rows["split"] == "validation")
    if len(train) < LEAST_INSTANCES:
        raise ValueError(f"words: there are {len(train)} training scans, and a word needs {LEAST_INSTANCES}; loosen pool.select")
    points = Whitening.of(embeddings[train])(embeddings)
    words = choose_words(rows.iloc[train].reset_index(drop=True), store, search)
    number = {scan: place for place, scan in enumerate(rows["scan_id"])}
    records, found = rows.to_dict("records"), []
    samplers = {scan: Sampler(store, records[place]) for scan, place in number.items()}
    for word in words:
        own = number[word.reference["scan_id"]]
        likeness = points @ points[own]
        likeness[own] = 1.0
        for place in (*nearest(likeness, train, search.neighbours), *nearest(likeness, held, search.neighbours)):
            found.append(_instance(word, records[place], samplers, float(likeness[place])))
        advance()
    table = pd.DataFrame(found)
    kept = keep_apart(table, rows, words)
    return checked(kept[kept["confidence"] >= search.min_confidence], search), words, len(table) - len(kept)


def choose_words(train: pd.DataFrame, store: Any, search: Search) -> list[Word]:
    """Each word's reference, a scan of its own as long as there are scans, and its place. Sizes take turns."""
    records = train.to_dict("records")
    spacing = np.median(np.stack([np.asarray(s, dtype=np.float64) for s in train["spacing_mm"]]), axis=0)
    low, high = (np.stack([np.asarray(v) for v in train[name]]) for name in ("body_low_mm", "body_high_mm"))
    typical_mm = np.median(high - low, axis=0)
    edges = np.stack([np.asarray(search.sizes_vox[word % len(search.sizes_vox)]) * spacing for word in range(search.num_words)])
    references, candidates = choose_references(records, store, edges, search.seed)
    chosen = choose_places([places * typical_mm for places in candidates], edges, DRAWS)
    words = []
    for word, place in enumerate(chosen):
        reference, body = references[word], candidates[word][place]
        place_mm = from_body(body, reference["body_low_mm"], reference["body_high_mm"])
        words.append(Word(word, reference, place_mm, body, edges[word]))
    return words


def choose_references(
    records: list[dict[str, Any]], store: Any, edges_mm: np.ndarray, seed: int
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """For each of n words with crops of edges_mm (n, 3): a random scan that can hold it, and the places it may have there."""
    references, candidates, waiting, turn = [], [], [], 0
    for word, edges in enumerate(edges_mm):
        places = np.zeros((0, 3))
        for tried in range(2 * len(records)):
            if tried >= len(waiting):
                waiting += permutation(key(seed, "references", turn), len(records)).tolist()
                turn += 1
            places = candidate_places(records[waiting[tried]], store, edges, key(seed, "place", word))
            if len(places):
                references.append(records[waiting.pop(tried)])
                candidates.append(places)
                break
        if not len(places):
            size = " x ".join(f"{edge:.4g}" for edge in edges)
            raise ValueError(f"words.sizes_vox: no scan can hold a word of {size} mm of which half shows the body; ask for smaller words")
    return references, candidates


def candidate_places(row: dict[str, Any], store: Any, edges_mm: np.ndarray, seed: int) -> np.ndarray:
    """(m, 3) body coordinates in random order, of voxels around which a crop lies inside the volume and shows the body; m may be 0."""
    grid = grid_of(row)
    shape, size = np.asarray(grid.shape), np.round(edges_mm / grid.spacing_mm).astype(int)
    if (size > shape).any():
        return np.zeros((0, 3))
    draw = uniform(torch.tensor([seed]), CANDIDATES, 3)[0].double().numpy()
    lows = np.floor(draw * (shape - size + 1)).astype(int)
    mask = store.body(row["scan_id"])
    shown = np.array([mask[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))].mean() for low in lows])
    return to_body(grid.world(lows[shown >= MIN_BODY] + size // 2), row["body_low_mm"], row["body_high_mm"])


def nearest(likeness: np.ndarray, places: np.ndarray, share: float) -> list[int]:
    """Those of the places that are most alike, at least one if there are any; in order."""
    count = math.ceil(share * len(places) - 1e-9)
    return [int(place) for place in places[np.argsort(-likeness[places], kind="stable")][:count]]


def keep_apart(table: pd.DataFrame, rows: pd.DataFrame, words: list[Word]) -> pd.DataFrame:
    """The instances whose crops no surer one of the same scan overlaps by half or more."""
    kept = []
    for scan, part in table.groupby("scan_id", sort=True):
        centres, sizes = crops_of(part, rows[rows["scan_id"] == scan].iloc[0], words)
        kept.append(part[surest_apart(centres, sizes, part["confidence"].to_numpy())])
    return pd.concat(kept)


def crops_of(part: pd.DataFrame, row: pd.Series, words: list[Word]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) centres and sizes in voxels of the crops that show instances of one scan, moved into the volume as the loader does."""
    grid = grid_of(row)
    sizes = np.stack([np.round(words[word].edges_mm / grid.spacing_mm) for word in part["word_id"]]).astype(int)
    low = crop_low(grid.index(part[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float64)), sizes, np.asarray(grid.shape))
    return low + sizes / 2, sizes.astype(np.float64)


def checked(table: pd.DataFrame, search: Search) -> pd.DataFrame:
    """The lexicon in its order, if every word has enough training instances; else a ``ValueError`` that says what to change."""
    counts = table[table["split"] == "train"].groupby("word_id").size().reindex(range(search.num_words), fill_value=0)
    poor = counts[counts < LEAST_INSTANCES]
    if len(poor):
        raise ValueError(
            f"words: {len(poor)} of {search.num_words} words, such as {poor.index[0]}, are left with fewer than {LEAST_INSTANCES} training "
            "scans; ask for fewer words.num_words, for more words.neighbours, or for a lower words.min_confidence"
        )
    return table.sort_values(["word_id", "scan_id"], ignore_index=True)


def _instance(word: Word, row: dict[str, Any], samplers: dict[str, Sampler], likeness: float) -> dict[str, Any]:
    """The word in one scan. confidence = sqrt(max(0, correlation) (1 + cosine) / 2): 1 for the reference itself."""
    scan, reference = row["scan_id"], word.reference["scan_id"]
    place, correlation = word.place_mm, 1.0
    if scan != reference:
        start = from_body(word.body, row["body_low_mm"], row["body_high_mm"])
        place, correlation = find_place(samplers[reference], word.place_mm, samplers[scan], start, word.edges_mm)
    confidence = math.sqrt(max(0.0, correlation) * (1.0 + min(1.0, likeness)) / 2)
    x, y, z = (round(float(value), 3) for value in place)
    return {
        "word_id": word.word_id, "scan_id": scan, "x_mm": x, "y_mm": y, "z_mm": z, "size_mm": round(word.size_mm, 4),
        "confidence": round(min(1.0, confidence), 4), "split": row["split"],
    }  # fmt: skip
