"""Cells that were kept come back as they were, but for their curves, and are used only where they fit."""

import shutil

import pandas as pd
import pytest

from pipeline.files import digest, read_json
from pipeline.transfer.finetune import Finetuning, finetune
from pipeline.transfer.kept import keep
from pipeline.transfer.table import make_verdict
from pipeline.verbs import keep as verb

SEARCH = {"num_labels": 2, "learning_rates": [1e-3, 3e-2], "lengths": [1], "seeds": [0]}


@pytest.fixture
def finished(tiny, replan):
    """(plan, folder) with two initialisations fine-tuned."""
    plan, where = replan(search=SEARCH), tiny[1]
    for transfer in plan.transfers[:2]:
        finetune(plan, where, transfer)
    return plan, where


def cells(where, transfer):
    return {
        str(p.relative_to(where.transfer(transfer.transfer))): read_json(p) for p in where.transfer(transfer.transfer).rglob("*-*.json")
    }


def test_a_study_whose_results_are_gone_goes_on_from_what_was_kept(finished, tmp_path, monkeypatch):
    plan, where = finished
    kept, transfer = tmp_path / "kept", plan.transfers[0]
    before, table = cells(where, transfer), digest(where.cases(transfer.transfer))
    verb.run(where.root, kept)
    shutil.rmtree(where.root / "transfers")
    verb.run(where.root, kept, back=True)
    after = cells(where, transfer)
    assert after == {name: {**value, "curve": []} for name, value in before.items()}
    monkeypatch.setattr(Finetuning, "_model", lambda *_: pytest.fail("a kept cell was made again"))
    for item in plan.transfers[:2]:
        finetune(plan, where, item)
    assert digest(where.cases(transfer.transfer)) == table


def test_what_is_there_is_not_overwritten_and_other_settings_are_not_used(finished, replan, tmp_path):
    plan, where = finished
    kept = tmp_path / "kept"
    counts = keep(plan, where, kept)
    assert counts == {"scratch": 6, "restoration": 6}
    scratch = where.transfer(plan.transfers[0].transfer)
    (scratch / "cells" / "1-s0.json").unlink()
    verb.run(where.root, kept, back=True)
    times = {path: path.stat().st_mtime_ns for path in scratch.rglob("*-*.json")}
    changed = replan(search=SEARCH, steps=5)
    finetune(changed, where, changed.transfers[0])
    assert all(path.stat().st_mtime_ns > times[path] for path in (scratch / "cells").glob("*.json"))
    assert set(pd.read_parquet(where.cases(changed.transfers[0].transfer))["steps"]) == {5}


def test_kept_files_are_small_and_say_where_and_how_long(finished, tmp_path):
    where, kept = finished[1], tmp_path / "kept"
    (where.root / "benchmarks").mkdir()
    (where.root / "benchmarks" / "split.tsv").write_text("s\tmax_rss\n7200\t12\n")
    verb.run(where.root, kept)
    cost = read_json(kept / "cost.json")
    assert cost["core_hours"] == 2.0
    assert cost["machine"]["cores"] >= 1
    size = sum(path.stat().st_size for path in kept.glob("tissue-*.json"))
    assert size < sum(path.stat().st_size for path in (where.root / "transfers").rglob("*-*.json")) / 2


def test_a_folder_that_is_not_there_is_named(finished, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        verb.run(finished[1].root, tmp_path / "nowhere", back=True)


def test_the_page_says_what_the_verdict_says(finished, tmp_path):
    plan, where = finished
    finetune(plan, where, plan.transfers[2])
    verb.run(where.root, tmp_path / "kept")
    assert "no verdict yet" in (tmp_path / "kept" / "README.md").read_text()
    _, beside = make_verdict(plan, where)
    verb.run(where.root, tmp_path / "kept")
    page = (tmp_path / "kept" / "README.md").read_text()
    item = beside["tasks"]["tissue"]["initialisations"]["restoration"]
    row = next(line for line in page.splitlines() if line.startswith("| restoration"))
    assert f"{item['primary']['diff_mean']:+.3f}" in row
    assert all(f"{point['dice_mean']:.3f}" in row for point in item["curve"])
    assert "exploratory" in next(line for line in page.splitlines() if line.startswith("| frozen"))
    assert all(sentence in page for sentence in beside["sentences"])


def test_cells_say_nothing_of_where_labels_lie(finished, tmp_path):
    plan, where = finished
    keep(plan, where, tmp_path / "kept")
    assert not [path.name for path in (tmp_path / "kept").iterdir() if '"labels":' in path.read_text()]
    transfer = plan.transfers[0]
    made = {path: path.stat().st_mtime_ns for path in where.transfer(transfer.transfer).rglob("*-*.json")}
    plan.tasks[transfer.task]["labels"] = str(tmp_path / "moved")
    finetune(plan, where, transfer)
    assert {path: path.stat().st_mtime_ns for path in made} == made
