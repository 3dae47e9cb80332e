"""Scan and Manifest: the only currency between rules.

``manifest.parquet`` has one row per stored volume:

=============== =========================================================================================
scan_id         16 characters [a-z0-9], keyed hash; the name of the volume in the store
exam_id         keyed hash of the visit; scans of one exam that were co-registered may be channels of one volume
subject_id      keyed hash of the person
cluster_id      subject_id of the smallest member of the cluster of subjects that share voxels (twins); splits are by cluster
channels        JSON list of the channel names, such as ["T1"]
modality        CT, MR, PT, ...
spacing_mm      list of three, of the stored grid
shape           list of three, of the stored grid
affine          list of sixteen: stored indices to RAS+ mm
body_low_mm     list of three: lower corner of the body's box in RAS+ mm (see ``anatomy.body``)
body_high_mm    list of three: upper corner
window_low      list, a channel each: stored int16 value that normalises to 0
window_high     list, a channel each: stored int16 value that normalises to 1
slope, inter    stored int16 * slope + inter = physical value (HU for CT); but for CT, window_low and window_high so become the two
                percentiles of the body
foreground_mean list, a channel each: mean of the body in physical values; no number for CT, whose values mean something by themselves
foreground_std  list, a channel each: their standard deviation
digest          sha256 of the canonical voxels, without spacing
day             days since the subject's first exam, where dates are known (DICOM), else empty; never a date
flags           codes of what is odd about the scan, which is right all the same, with spaces between (``scans.flags``); mostly empty
split           train, validation or test
labels          JSON mapping: task name -> list of label values present
origin          where it came from, in words fit to be published
licence         its licence
twin_of         scan_id of the scan that this one repeats, or empty
=============== =========================================================================================
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from anatomy.grid import Grid
from pipeline.files import write_table

COLUMNS = (
    "scan_id", "exam_id", "subject_id", "cluster_id", "channels", "modality", "spacing_mm", "shape", "affine",
    "body_low_mm", "body_high_mm", "window_low", "window_high", "slope", "inter", "foreground_mean", "foreground_std",
    "digest", "day", "flags", "split", "labels", "origin", "licence", "twin_of",
)  # fmt: skip
SPLITS = ("train", "validation", "test")


def read_manifest(path: Path | str) -> pd.DataFrame:
    """The manifest, sorted by scan id; missing file or columns are a ``ValueError`` that says what to run."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no manifest there; run `vesalius split` (or snakemake) first")
    frame = pd.read_parquet(path)
    frame = _completed(frame)
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise ValueError(f"{path}: lacks the columns {', '.join(missing)}; run `vesalius split` again")
    return frame.sort_values("scan_id", ignore_index=True)


def write_manifest(frame: pd.DataFrame, path: Path | str) -> None:
    """Writes rows sorted by scan id, columns in the documented order."""
    ordered = _completed(frame).loc[:, list(COLUMNS)].sort_values("scan_id", ignore_index=True)
    write_table(path, lambda temporary: ordered.to_parquet(temporary, index=False))


def _completed(frame: pd.DataFrame) -> pd.DataFrame:
    """With the columns that earlier versions did not write."""
    unknown = [np.full(len(low), np.nan) for low in frame["window_low"]] if "window_low" in frame else None
    later = {
        "day": pd.array([pd.NA] * len(frame), dtype="Int64"),
        "flags": "",
        "foreground_mean": unknown,
        "foreground_std": unknown,
    }
    return frame.assign(**{column: value for column, value in later.items() if column not in frame})


def manifest_digest(frame: pd.DataFrame) -> str:
    """sha256 over what a training run can see of the manifest."""
    seen = frame.sort_values("scan_id")[["scan_id", "cluster_id", "digest", "split", "window_low", "window_high", "spacing_mm"]]
    text = seen.to_json(orient="records", double_precision=10)
    return hashlib.sha256(text.encode()).hexdigest()


def grid_of(row: pd.Series) -> Grid:
    """The stored grid of one manifest row."""
    return Grid(tuple(int(n) for n in row["shape"]), np.asarray(row["affine"], dtype=np.float64).reshape(4, 4))


def select(frame: pd.DataFrame, query: str | None, key: str = "pool.select") -> pd.DataFrame:
    """Rows that match a query on manifest columns, such as ``modality == 'CT'``; ``spacing_mm[2]`` is written as is."""
    if not query:
        return frame
    flat = frame.assign(
        **{f"{column}_{axis}": frame[column].map(lambda value, a=axis: value[a]) for column in ("spacing_mm", "shape") for axis in range(3)}
    )
    for column in ("spacing_mm", "shape"):
        for axis in range(3):
            query = query.replace(f"{column}[{axis}]", f"{column}_{axis}")
    try:
        chosen = flat.query(query, engine="python").index
    except Exception as error:
        raise ValueError(f"{key}: {query!r} is no query on the manifest's columns ({error})") from error
    return frame.loc[chosen].reset_index(drop=True)
