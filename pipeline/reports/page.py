"""The report: one self-contained page for people who read results, not code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import __version__
from pipeline.files import write_text
from pipeline.folder import StudyFolder
from pipeline.manifest import read_manifest
from pipeline.plan import Plan
from pipeline.reports import contents, figures, health, pictures, verdicts
from pipeline.tracking.costs import stage_costs
from pipeline.volumes.store import Store

MAX_TILES, MAX_INSTANCES, MAX_EXAMPLES = 12, 8, 6


def write_report(plan: Plan, where: StudyFolder) -> Path:
    """Writes report.html and figures/*.svg; returns the page's path."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    write_text(where.report, environment.get_template("template.html.j2").render(**_values(plan, where)))
    return where.report


def _values(plan: Plan, where: StudyFolder) -> dict[str, Any]:
    manifest, store = read_manifest(where.manifest), Store(where.store)
    lexicons = contents.lexicon_figures(plan, where)
    values: dict[str, Any] = {
        "study": plan.study,
        "version": __version__,
        "data": contents.data_section(manifest),
        "refused": contents.refused_section(where),
        "montage": _montage(manifest, store),
        "curves": _curves(plan, where),
        "alarms": health.alarms(plan, where),
        "examples": _examples(plan, where),
        "words": _words(where, manifest, store),
        "lexicons": [{**dict.fromkeys(contents.LEXICON_ROWS, ""), **{n: _short(v) for n, v in row.items()}} for row in lexicons],
        "lexicon_rows": [(name, meaning) for name, meaning in contents.LEXICON_ROWS.items() if any(name in row for row in lexicons)],
        "times": stage_costs(where.benchmarks),
        "encoders": contents.encoder_section(plan, where),
        "transfers": bool(plan.transfers),
        "verdict": verdicts.verdict_values(plan, where),
        "patent": any("visual_words" in r["objectives"] or "restoration" in r["objectives"] for r in plan.recipes.values()),
    }
    titles = {
        "verdict": "Verdict",
        "data": "Data",
        "refused": "Refused",
        "curves": "Pretraining",
        "words": "Words",
        "times": "Cost",
        "encoders": "Encoder",
    }
    anchors = {"curves": "pretraining", "times": "cost", "encoders": "encoder"}
    values["sections"] = [(anchors.get(key, key), title) for key, title in titles.items() if values[key]]
    return values


def _montage(manifest: pd.DataFrame, store: Store) -> list[dict[str, Any]]:
    """A few volumes of each origin, spread over the cohort; channels stand below each other."""
    chosen: list[int] = []
    groups = [group.index.tolist() for _, group in manifest.groupby(["origin", "modality"], sort=True)]
    share = max(1, MAX_TILES // max(1, len(groups)))
    for group in groups:
        chosen += [group[i] for i in np.unique(np.linspace(0, len(group) - 1, min(share, len(group))).round().astype(int))]
    tiles = []
    for index in chosen[:MAX_TILES]:
        row = manifest.loc[index]
        channels = zip(store.read(row["scan_id"]), row["window_low"], row["window_high"], strict=True)
        planes = [pictures.three_planes(pictures.normalised(*channel), row["spacing_mm"]) for channel in channels]
        names = ", ".join(json.loads(row["channels"])) if len(planes) > 1 else row["modality"]
        caption = f"{names}, from the top" if len(planes) > 1 else names
        if manifest["origin"].nunique() > 1:
            caption += f"; {row['origin']}"
        tiles.append({"uri": pictures.png_uri(np.concatenate(planes)), "modality": row["modality"], "caption": caption})
    return tiles


def _curves(plan: Plan, where: StudyFolder) -> list[dict[str, str]]:
    series = contents.curve_series(plan, where)
    captions = {
        "train": "While training: the sum that is descended, and the norm of its gradient.",
        "evaluate": "On held-out validation subjects, which pretraining never reads.",
    }
    wanted = {"train": ["loss", "gradient_norm"], "evaluate": []}
    present = {name for metrics in series["evaluate"].values() for name in metrics}
    telling = ("accuracy", "error_altered", "error_unaltered", "error")
    wanted["evaluate"] = [name for name in sorted(present) if name.rsplit("/", 1)[-1] in telling] or (["loss"] if "loss" in present else [])
    curves = []
    for kind, metrics in wanted.items():
        if series[kind] and metrics:
            for first in range(0, len(metrics), 3):
                curves.append(
                    {"svg": figures.svg_of(figures.loss_curves(series[kind], metrics[first : first + 3])), "caption": captions[kind]}
                )
    well = health.curves(series["train"])
    titles = [title for title in health.TELLING.values() if any(title in own for own in well.values())]
    if titles:
        curves.append({"svg": figures.svg_of(figures.loss_curves(well, titles)), "caption": health.CAPTION})
    return curves


def _examples(plan: Plan, where: StudyFolder) -> list[dict[str, Any]]:
    """Corrupted and restored crops of held-out subjects that each run left in examples.npz."""
    found = []
    for run in plan.runs:
        path = where.run(run.run) / "examples.npz"
        if not path.exists() or any(item["name"].startswith(run.recipe) for item in found):
            continue
        with np.load(path) as data:
            rows = [
                (title, [pictures.png_uri(pictures.upright(image / 255.0)) for image in data[name][:MAX_EXAMPLES]])
                for name, title in (("target", "original"), ("shown", "shown to the network"), ("restored", "given back"))
            ]
        found.append({"name": f"{run.recipe}, seed {run.seed}", "rows": rows})
    return found


def _words(where: StudyFolder, manifest: pd.DataFrame, store: Store) -> list[dict[str, Any]]:
    table = contents.word_rows(where)
    rows = {row["scan_id"]: row for _, row in manifest.iterrows()}
    gallery = []
    for word, group in table.groupby("word_id") if len(table) else ():
        best = group[group["scan_id"].isin(rows)].sort_values(["confidence", "scan_id"], ascending=[False, True]).head(MAX_INSTANCES)
        instances = []
        for item in best.to_dict("records"):
            centre = np.array([item["x_mm"], item["y_mm"], item["z_mm"]])
            image = pictures.patch(store, rows[item["scan_id"]], centre, item["size_mm"])
            instances.append({"uri": pictures.png_uri(image), "confidence": f"{item['confidence']:.2f}"})
        gallery.append(
            {"id": int(word), "size": f"{group['size_mm'].iloc[0]:.0f}", "count": group["scan_id"].nunique(), "instances": instances}
        )
    return gallery


def _short(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else value
