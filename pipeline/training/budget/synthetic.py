"""A small store of made-up scans that fit a recipe, for measuring where no study is at hand. It looks like nothing and teaches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.keys import integers, key, noise, uniform
from pipeline.plugins import only
from pipeline.recipe import Recipe
from pipeline.volumes.store import Store

SPACING_MM = 1.0
WINDOW = (0.0, 4000.0)
LARGER = 1.5  # edges of a scan, in edges of a crop
HELD_OUT = 2


@dataclass(frozen=True)
class Synthetic:
    """What a study would have: the store's folder, rows to train on and to judge by, and a lexicon if the recipe uses words."""

    store: Path
    train: pd.DataFrame
    held_out: pd.DataFrame
    lexicon: pd.DataFrame | None


def synthetic(recipe: Recipe, folder: Path, num_scans: int = 8, channels: int = 1) -> Synthetic:
    """Writes ``folder/store``; ``num_scans`` of MR-like scans, the last two of them held out."""
    size = only(recipe.crops, "crops")[1]["size_vox"]
    shape = tuple(int(np.ceil(LARGER * n)) for n in size)
    store = Store(folder / "store")
    rows = [_scan(store, number, shape, channels, num_scans - number <= HELD_OUT) for number in range(num_scans)]
    table = pd.DataFrame(rows)
    held = table["split"] == "validation"
    lexicon = _lexicon(recipe, table, shape) if recipe.words else None
    return Synthetic(store.root, table[~held].reset_index(drop=True), table[held].reset_index(drop=True), lexicon)


def _scan(store: Store, number: int, shape: tuple[int, ...], channels: int, held_out: bool) -> dict[str, Any]:
    """A few blobs of tissue in air, with noise: about as compressible as MR."""
    scan_id = f"{key('synthetic', number):016x}"
    keys = torch.tensor([key("synthetic", "scan", number)])
    axes = [torch.linspace(0, 1, n) for n in shape]
    centres, sizes = uniform(keys, 6, 3)[0] * 0.6 + 0.2, uniform(keys ^ 1, 6)[0] * 0.15 + 0.1
    distance = [(axes[a][None] - centres[:, a, None]).square() for a in range(3)]
    blobs = torch.exp(
        -(distance[0][:, :, None, None] + distance[1][:, None, :, None] + distance[2][:, None, None, :]) / sizes.view(-1, 1, 1, 1) ** 2
    )
    tissue = (blobs * (integers(keys, 1, 8, 6)[0] / 8).view(-1, 1, 1, 1)).sum(0).clamp(max=1)
    voxels = (3600 * tissue + 200 * noise(keys ^ 2, channels, *shape)[0]).to(torch.int16).numpy()
    affine = np.diag([SPACING_MM] * 3 + [1.0]).ravel().tolist()
    window = {"window_low": [WINDOW[0]] * channels, "window_high": [WINDOW[1]] * channels}
    meta = {"spacing_mm": [SPACING_MM] * 3, "affine": affine, **window, "slope": [1.0] * channels, "inter": [0.0] * channels}
    store.write(scan_id, voxels, (tissue > 0.1).numpy(), meta)
    extent = [SPACING_MM * (n - 1) for n in shape]
    return {
        "scan_id": scan_id, "exam_id": scan_id, "subject_id": scan_id, "cluster_id": scan_id, "channels": '["MR"]', "modality": "MR",
        "shape": list(shape), "body_low_mm": [0.0] * 3, "body_high_mm": extent, "split": "validation" if held_out else "train",
        "labels": "{}", **meta,
    }  # fmt: skip


def _lexicon(recipe: Recipe, rows: pd.DataFrame, shape: tuple[int, ...]) -> pd.DataFrame:
    """Every word at one place of every scan."""
    assert recipe.words is not None
    sizes = recipe.words.sizes_vox
    places = uniform(torch.arange(recipe.words.num_words), 3).numpy() * 0.5 + 0.25
    found = []
    for word, place in enumerate(places):
        size_mm = SPACING_MM * float(np.cbrt(np.prod(sizes[word % len(sizes)])))
        x, y, z = (float(share * SPACING_MM * n) for share, n in zip(place, shape, strict=True))
        for row in rows.itertuples():
            entry = {"word_id": word, "scan_id": row.scan_id, "x_mm": x, "y_mm": y, "z_mm": z, "size_mm": size_mm}
            found.append({**entry, "confidence": 0.5 + place[0] / 2, "split": row.split})
    return pd.DataFrame(found)
