"""The health of each pretraining for the report: its alarms, and the figures that tell most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.folder import StudyFolder
from pipeline.plan import Plan
from pipeline.tracking.journal import read_journal

Series = Mapping[str, Mapping[str, tuple[list[int], list[float]]]]
# Ending of a figure's name in the journal -> its title; of several views, the first counts.
TELLING = {
    "pooled/rank_within": "rank of pooled features",
    "pooled/variation": "variation of pooled features",
    "health/probe": "probe of the frozen encoder",
}
CAPTION = (
    "Health while training (docs/health.md): rank and variation of the encoder's features over the crops of a step; a fall to almost "
    "nothing is a collapse. The probe is a linear one on labelled training subjects."
)


def alarms(plan: Plan, where: StudyFolder) -> list[dict[str, Any]]:
    """Every alarm of every run, as its journal tells it."""
    return [
        {"run": run.run, "step": entry["step"], "name": entry["name"].replace("_", " "), "text": entry["text"]}
        for run in plan.runs
        for entry in read_journal(where.journal(run.run))
        if entry["kind"] == "alarm"
    ]


def curves(train: Series) -> Series:
    """run -> title -> (steps, values), from the metrics of the train lines."""
    found: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for run, metrics in train.items():
        for ending, title in TELLING.items():
            named = next((name for name in sorted(metrics) if name.startswith("health/") and name.endswith(ending)), None)
            if named:
                found.setdefault(run, {})[title] = metrics[named]
    return found
