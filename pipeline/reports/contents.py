"""What the report says, gathered from a study's files: plain values for the template."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.files import read_json
from pipeline.folder import StudyFolder
from pipeline.plan import Plan
from pipeline.scans.flags import FLAGS, Flag
from pipeline.tracking.journal import read_journal

LEXICON_ROWS = {
    "num_words": "words",
    "num_instances": "instances",
    "scans": "scans they were looked for in",
    "share_pairs_apart": "share of pairs of words whose crops overlap by less than half",
    "correlation_within": "mean correlation of two crops of one word",
    "correlation_between": "mean correlation of crops of two words",
    "purity": "share of instances whose most alike crop shows the same word",
    "confidence_median": "median confidence",
    "word_error_mm": "true median error of words, mm",
    "body_error_mm": "true median error of equal body coordinates, mm",
    "index_error_mm": "true median error of equal array indices, mm",
}


STATUS = {
    "volume": "hold scans",
    "companion": "are labels or other companions of scans",
    "not_image": "are no images",
    "left_out": "are further volumes of a series of which the first was taken",
    "quarantined": "were refused",
    "forgotten": "are of subjects that were taken out",
}  # of a file, as in inventory.tsv


def data_section(manifest: pd.DataFrame) -> dict[str, Any]:
    """Counts by where the volumes come from, by split, and the ranges of spacing and shape."""
    rows = []
    for (origin, licence, modality), group in manifest.groupby(["origin", "licence", "modality"], sort=True):
        spacing = pd.DataFrame(group["spacing_mm"].tolist())
        shape = pd.DataFrame(group["shape"].tolist())
        rows.append({
            "origin": origin, "licence": licence, "modality": modality, "scans": len(group), "subjects": group["subject_id"].nunique(),
            "spacing": _range(spacing, "{:.3g}"), "shape": _range(shape, "{:.0f}"), "twins": int((group["twin_of"].fillna("") != "").sum()),
            "flags": ", ".join(f"{flag}: {number}" for flag, number in _flags(group).items()),
        })  # fmt: skip
    splits = {split: manifest[manifest["split"] == split] for split in ("train", "validation", "test")}
    return {
        "rows": rows,
        "splits": [
            {"split": s, "scans": len(g), "clusters": g["cluster_id"].nunique(), "labelled": _labelled(g)} for s, g in splits.items()
        ],
        "flags": [{"flag": flag, "meaning": FLAGS[Flag(flag)]} for flag in _flags(manifest)],
        "num_scans": len(manifest),
        "num_subjects": manifest["subject_id"].nunique(),
    }


def refused_section(where: StudyFolder) -> dict[str, Any]:
    """Why files and scans were refused: a row a reason, and how every file was accounted for."""
    refused = _table(where.quarantine)
    inventory = _table(where.inventory)
    reasons = []
    if not refused.empty:
        for (code, reason, remedy), group in refused.fillna("").groupby(["code", "reason", "remedy"], sort=True):
            reasons.append(
                {"code": code, "reason": reason, "remedy": remedy, "count": len(group), "origins": ", ".join(sorted(set(group["origin"])))}
            )
    counts = Counter(inventory["status"]) if "status" in inventory else Counter()
    ordered = [*(status for status in STATUS if counts[status]), *sorted(counts.keys() - STATUS.keys())]
    return {"reasons": reasons, "accounted": [f"{counts[status]} {STATUS.get(status, status)}" for status in ordered]}


def curve_series(plan: Plan, where: StudyFolder) -> dict[str, dict[str, dict[str, tuple[list[int], list[float]]]]]:
    """kind -> run -> metric -> (steps, values)."""
    found: dict[str, Any] = {"train": {}, "evaluate": {}}
    for run in plan.runs:
        for entry in read_journal(where.journal(run.run)):
            if entry["kind"] in found:
                metrics = found[entry["kind"]].setdefault(run.run, {})
                for name, value in entry["metrics"].items():
                    if isinstance(value, int | float):
                        steps, values = metrics.setdefault(name, ([], []))
                        steps.append(entry["step"])
                        values.append(value)
    return found


def encoder_section(plan: Plan, where: StudyFolder) -> list[dict[str, Any]]:
    """The encoders that were made, with what their contract says."""
    rows = []
    for run in plan.runs:
        contract = where.run(run.run) / "encoder.json"
        if contract.exists():
            value = read_json(contract)
            rows.append({**value, "run": run.run, "recipe": run.recipe, "seed": run.seed, "path": f"runs/{run.run}/encoder.safetensors"})
    return rows


def word_rows(where: StudyFolder, limit: int = 8) -> pd.DataFrame:
    """Instances of the surest words of the first lexicon: the rows of the gallery."""
    if not where.lexicon_all.exists():
        return pd.DataFrame()
    table = pd.read_parquet(where.lexicon_all)
    if table.empty:
        return table
    table = table[table["lexicon"] == sorted(table["lexicon"].unique())[0]]
    surest = table.groupby("word_id")["confidence"].mean().sort_values(ascending=False).index[:limit]
    return table[table["word_id"].isin(surest)]


def lexicon_figures(plan: Plan, where: StudyFolder) -> list[dict[str, Any]]:
    """What ``discover`` measured of each lexicon."""
    found = []
    for item in plan.lexicons:
        path = where.lexicon(item.lexicon).with_suffix(".json")
        if path.exists():
            found.append({"lexicon": item.lexicon, **read_json(path)})
    return found


def _flags(group: pd.DataFrame) -> dict[str, int]:
    """How many scans carry each flag."""
    return dict(sorted(Counter(flag for flags in group["flags"] for flag in flags.split()).items()))


def _labelled(group: pd.DataFrame) -> int:
    return sum(bool(json.loads(labels or "{}")) for labels in group["labels"])


def _range(frame: pd.DataFrame, style: str) -> str:
    parts = [(style.format(frame[a].min()), style.format(frame[a].max())) for a in range(3)]
    return " × ".join(low if low == high else f"{low}–{high}" for low, high in parts)


def _table(path: Path) -> pd.DataFrame:
    if not path.exists() or path.stat().st_size == 0:
        return pd.DataFrame()
    return pd.read_csv(path, sep="\t", dtype=str)
