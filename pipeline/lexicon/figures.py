"""What a lexicon is worth, in figures: are its instances alike, its words unlike, its crops apart, its places right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from anatomy.body import from_body
from anatomy.words import MAX_OVERLAP, overlaps
from pipeline.lexicon.discovery import Word, crops_of
from pipeline.lexicon.matching import Sampler
from pipeline.manifest import grid_of

SAMPLES = 8  # of a crop along an axis
MOST = 2000  # instances that are compared with each other

# (row, places (n, 3) in RAS+ mm) -> places (n, 3) in a space that all scans share, or None where that is not known
Truth = Callable[[dict[str, Any], np.ndarray], "np.ndarray | None"]


def lexicon_figures(table: pd.DataFrame, rows: pd.DataFrame, words: list[Word], store: Any) -> dict[str, float]:
    """Counts; ``share_pairs_apart``: pairs of words of one scan whose crops overlap by less than half; and how alike instances look.

    ``correlation_within`` and ``correlation_between``: mean correlation of two crops of one word and of two words, in different scans;
    ``purity``: share of instances whose most alike crop in another scan shows the same word (1 / num_words by chance).
    """
    counts = table.groupby("word_id").size()
    held = table[table["split"] == "validation"]
    return {
        "num_words": len(words),
        "num_instances": len(table),
        "instances_least": int(counts.min()),
        "instances_median": float(counts.median()),
        "instances_most": int(counts.max()),
        "validation_instances": len(held),
        "validation_words": int(held["word_id"].nunique()),
        "size_mm_least": float(table["size_mm"].min()),
        "size_mm_most": float(table["size_mm"].max()),
        "confidence_median": round(float(table["confidence"].median()), 4),
        "share_pairs_apart": pairs_apart(table, rows, words),
        **alikeness(table, rows, words, store),
    }


def pairs_apart(table: pd.DataFrame, rows: pd.DataFrame, words: list[Word]) -> float:
    """Share of the pairs of words in one scan whose crops overlap by less than half; 1 if no scan has two."""
    apart = pairs = 0
    for scan, part in table.groupby("scan_id", sort=True):
        centres, sizes = crops_of(part, rows[rows["scan_id"] == scan].iloc[0], words)
        shared = overlaps(centres, sizes)[np.triu_indices(len(part), 1)]
        apart, pairs = apart + int((shared < MAX_OVERLAP).sum()), pairs + len(shared)
    return apart / pairs if pairs else 1.0


def alikeness(table: pd.DataFrame, rows: pd.DataFrame, words: list[Word], store: Any) -> dict[str, float]:
    """See ``lexicon_figures``. Crops are compared at 8 x 8 x 8 places; of a large lexicon every n-th instance is."""
    part = table.iloc[:: -(-len(table) // MOST)]
    samplers = {row["scan_id"]: Sampler(store, row) for row in rows.to_dict("records")}
    points = []
    for entry in part.to_dict("records"):
        place = np.array([entry["x_mm"], entry["y_mm"], entry["z_mm"]])
        crop = samplers[entry["scan_id"]](place, words[entry["word_id"]].edges_mm / SAMPLES, (SAMPLES,) * 3).numpy().astype(np.float64)
        centred = (crop - crop.mean((1, 2, 3), keepdims=True)).ravel()
        points.append(centred / max(float(np.linalg.norm(centred)), 1e-9))
    likeness = np.stack(points) @ np.stack(points).T
    word, scan = part["word_id"].to_numpy(), pd.factorize(part["scan_id"])[0]
    same, other = word[:, None] == word[None], scan[:, None] != scan[None]
    best = np.where(other, likeness, -np.inf).argmax(1)
    return {
        "correlation_within": round(_mean(likeness[same & other]), 4),
        "correlation_between": round(_mean(likeness[~same & other]), 4),
        "purity": round(float((word[best] == word).mean()), 4),
    }


def word_errors(table: pd.DataFrame, rows: pd.DataFrame, words: list[Word], truth: Truth) -> dict[str, float]:
    """Median distance in mm, in the shared space, of instances from their word's reference; empty where no truth is known.

    Places off the truth's grid are left out, in all three figures alike.

    ``word_error_mm``: of the places found; ``body_error_mm``: of the same body coordinates; ``index_error_mm``: of the same index of
    the stored array, which is what the paper's words are.
    """
    records = {row["scan_id"]: row for row in rows.to_dict("records")}
    errors = []
    for entry in table.to_dict("records"):
        word, row = words[entry["word_id"]], records[entry["scan_id"]]
        if row["scan_id"] == word.reference["scan_id"]:
            continue
        index = grid_of(word.reference).index(word.place_mm)
        places = np.stack([
            (entry["x_mm"], entry["y_mm"], entry["z_mm"]),
            from_body(word.body, row["body_low_mm"], row["body_high_mm"]),
            grid_of(row).world(index),
        ])  # fmt: skip
        known, wanted = truth(row, places), truth(word.reference, word.place_mm[None])
        if known is not None and wanted is not None:
            errors.append(np.linalg.norm(known - wanted, axis=1))
    known_all = [error for error in errors if np.isfinite(error).all()]
    if not known_all:
        return {}
    found = np.median(np.stack(known_all), axis=0)
    names = ("word_error_mm", "body_error_mm", "index_error_mm")
    return {"instances_with_truth": len(known_all), **{name: round(float(value), 3) for name, value in zip(names, found, strict=True)}}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
