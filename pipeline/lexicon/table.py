"""The table of visual words, ``lexicons/<lexicon>.parquet``: a row an instance, sorted by word and scan.

========== ===============================================================================
word_id    number of the word, 0, 1, ...: the class that an encoder is to name
scan_id    the scan that carries it
x_mm, ...  x_mm, y_mm, z_mm: the middle of its crop there, RAS+ millimetres
size_mm    geometric mean of the edges of its crop
confidence 0 to 1: 1 for the word's reference
split      train or validation
========== ===============================================================================

``lexicon.parquet`` holds the rows of all lexicons of a study, with their name in the column ``lexicon``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.files import write_table

COLUMNS = ("word_id", "scan_id", "x_mm", "y_mm", "z_mm", "size_mm", "confidence", "split")


def write_lexicon(table: pd.DataFrame, path: Path | str) -> None:
    """Columns in their order, nothing else."""
    ordered = table.loc[:, list(COLUMNS)].reset_index(drop=True)
    write_table(path, lambda temporary: ordered.to_parquet(temporary, index=False))


def read_lexicon(path: Path | str) -> pd.DataFrame:
    """The table; what is missing or cannot be in it is a ``ValueError`` that says what to run."""
    path = Path(path)
    remedy = "run `vesalius discover` again"
    if not path.exists():
        raise ValueError(f"{path}: there is no lexicon; {remedy}")
    table = pd.read_parquet(path)
    if missing := [column for column in COLUMNS if column not in table]:
        raise ValueError(f"{path}: lacks the columns {', '.join(missing)}; {remedy}")
    words = sorted(set(table["word_id"]))
    if words != list(range(len(words))) or not words:
        raise ValueError(f"{path}: word_id: must count 0, 1, ... without a gap; {remedy}")
    figures = table[["x_mm", "y_mm", "z_mm", "size_mm", "confidence"]].to_numpy(np.float64)
    if not np.isfinite(figures).all() or (figures[:, 3] <= 0).any():
        raise ValueError(f"{path}: places must be finite and size_mm positive; {remedy}")
    if (figures[:, 4] < 0).any() or (figures[:, 4] > 1).any():
        raise ValueError(f"{path}: confidence: must lie between 0 and 1; {remedy}")
    if wrong := sorted(set(table["split"]) - {"train", "validation"}):
        raise ValueError(f"{path}: split: is {', '.join(map(str, wrong))} somewhere, where only train and validation may be; {remedy}")
    if table.duplicated(["word_id", "scan_id"]).any():
        raise ValueError(f"{path}: a scan has the same word twice; {remedy}")
    return table


def merge_lexicons(paths: dict[str, Path], target: Path) -> pd.DataFrame:
    """Every lexicon by name into one table; none gives an empty one with the same columns."""
    tables = [read_lexicon(path).loc[:, list(COLUMNS)].assign(lexicon=name) for name, path in sorted(paths.items())]
    merged = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*COLUMNS, "lexicon"])
    write_table(target, lambda temporary: merged.to_parquet(temporary, index=False))
    return merged
