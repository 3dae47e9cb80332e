"""Alarms and health curves of the report, from journals."""

from types import SimpleNamespace

from pipeline.folder import StudyFolder
from pipeline.reports import figures, health
from pipeline.reports.contents import curve_series
from pipeline.tracking.journal import Journal

RUNS = ("moco-s0-aaaaaaaaaa", "masked-s0-bbbbbbbbbb")


def plan_and_folder(root):
    where = StudyFolder(root)
    for number, run in enumerate(RUNS):
        journal = Journal(where.journal(run))
        for step in (10, 20):
            view = ("pair", "masked")[number]
            metrics = {f"health/{view}/pooled/rank_within": 40.0 - step, f"health/{view}/dense/rank_within": 3.0, "loss": 0.1}
            journal.write("train", step=step, metrics=metrics | ({"health/probe": 0.5} if number else {}))
    Journal(where.journal(RUNS[0])).write(
        "alarm", step=20, name="low_rank", figure="x", value=0.0, text="too few <dimensions>. What to change: all."
    )
    return SimpleNamespace(runs=tuple(SimpleNamespace(run=run) for run in RUNS)), where


def test_alarms_are_listed_with_what_to_change(tmp_path):
    rows = health.alarms(*plan_and_folder(tmp_path))
    assert rows == [{"run": RUNS[0], "step": 20, "name": "low rank", "text": "too few <dimensions>. What to change: all."}]


def test_curves_of_runs_with_different_views_share_a_panel(tmp_path):
    series = curve_series(*plan_and_folder(tmp_path))["train"]
    found = health.curves(series)
    assert {run: set(own) for run, own in found.items()} == {
        RUNS[0]: {"rank of pooled features"}, RUNS[1]: {"rank of pooled features", "probe of the frozen encoder"}
    }  # fmt: skip
    assert found[RUNS[0]]["rank of pooled features"] == ([10, 20], [30.0, 20.0])
    svg = figures.svg_of(figures.loss_curves(found, ["rank of pooled features"]))
    assert "rank of pooled features" in svg
