"""The verdict as the page shows it: sentences, the planned table, every cell, and the figure."""

from __future__ import annotations

from typing import Any

from pipeline.files import read_json, write_text
from pipeline.folder import StudyFolder
from pipeline.plan import Plan
from pipeline.reports import figures


def verdict_values(plan: Plan, where: StudyFolder) -> dict[str, Any] | None:
    """Values for the template; None before the verdict. Writes figures/dice-<task>.svg."""
    path = where.root / "verdict.json"
    if not path.exists():
        return None
    beside = read_json(path)
    drawn, primary, cells, validation = [], [], [], []
    for task, value in beside["tasks"].items():
        points = [point for name, item in value["initialisations"].items() for point in _points(name, item)]
        svg = figures.svg_of(figures.dice_curve(points, task))
        write_text(where.root / "figures" / f"dice-{task}.svg", svg.replace("currentColor", "#444444"))
        drawn.append(svg)
        validation.append(value["num_validation_labels"])
        for name, item in value["initialisations"].items():
            if item["primary"]:
                primary.append(
                    {**_row(task, name, item["primary"]), "saved": _saved(item["labels_saved"]), "pretrain_steps": item["pretrain_steps"]}
                )
            cells += [_row(task, name, figures_of) for figures_of in item["curve"]]
    numbers = " or ".join(str(n) for n in sorted(set(validation)))
    note = f"Beside every size stand {numbers} labelled validation subjects: their labels are labels too."
    return {
        "figures": drawn, "primary": primary, "cells": cells, "stamps": beside["stamps"], "sentences": beside["sentences"],
        "many_tasks": len(beside["tasks"]) > 1, "validation_note": note,
    }  # fmt: skip


def _points(name: str, item: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"initialisation": name, "num_labels": p["num_labels"], "dice": p["dice_mean"], "low": p["dice_low"], "high": p["dice_high"]}
        for p in item["curve"]
    ]


def _row(task: str, name: str, item: dict[str, Any]) -> dict[str, Any]:
    """One line of a table; ``tone`` colours only what test and interval support."""
    compared, sure = item.get("diff_mean") is not None, item.get("significant")
    planned_p = item.get("p_holm")
    return {
        "task": task, "initialisation": name, "num_labels": item["num_labels"],
        "num_seeds": item["num_seeds"], "num_cases": item["num_cases"],
        "dice": f"{item['dice_mean']:.3f}",
        "diff": f"{item['diff_mean']:+.3f}" if compared else "",
        "interval": f"{item['ci_low']:+.3f} to {item['ci_high']:+.3f}" if compared else "",
        "p": f"{planned_p:.3f}" if planned_p is not None else ("not planned" if compared else "reference"),
        "p_raw": f"{item['p_raw']:.3f}" if compared else "",
        "wins": f"{item['wins']} / {item['ties']} / {item['losses']}" if compared else "",
        "finetune_steps": item["finetune_steps"], "tone": ("better" if item["diff_mean"] > 0 else "worse") if sure else "",
    }  # fmt: skip


def _saved(saved: dict[str, Any] | None) -> str:
    """Labels saved with its interval: ``none`` where scratch's mean with all labels was never reached."""
    if saved is None:
        return ""
    if saved["value"] is None:
        return "none"
    low, high = ("none" if saved[end] is None else f"{saved[end]:.0%}" for end in ("low", "high"))
    return f"{saved['value']:.0%} ({low} to {high})"
