"""From the results of every transfer to ``verdict.tsv`` and ``verdict.json``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipeline.files import read_json, write_json, write_text
from pipeline.folder import StudyFolder
from pipeline.manifest import read_manifest
from pipeline.plan import Plan, Transfer
from pipeline.transfer import leakage
from pipeline.transfer.labelled import labelled_scans
from pipeline.transfer.results import read_results
from pipeline.transfer.verdict import ALPHA, COLUMNS, TaskVerdict, correct, sentence, significant


def make_verdict(plan: Plan, where: StudyFolder) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Reads every ``cases.parquet`` and writes verdict.json and, last, verdict.tsv; returns both as values.

    verdict.json: against, alpha, draws, primary_max_labels, family (number of planned comparisons), stamps (sentences; a reader must
    see them), sentences, and ``tasks``: for each, num_labelled, num_validation_labels, num_test_subjects, num_test_cases and
    ``initialisations``: for each, recipe, planned, pretrain_steps, words_steps (of the run that found its words), search (what was
    tried and chosen, or null), labels_saved (value, low, high: null is "never"; share_reached, at_smallest; null without ``all``),
    sentence, primary and ``curve`` (a size each: the columns of the table and dice_low, dice_high, is_all, learning_rate, classes,
    num_validation_labels). ``detectable`` is the difference found with 80 % power at 5 %; ``detectable_corrected`` at 5 % over the family
    (null where ``smallest_p``, the least that so many subjects allow, is above that).
    """
    study = plan.study_value()
    manifest = read_manifest(where.manifest)
    stamped = {transfer.initialisation: leakage.check_runs(plan, where, transfer.runs, manifest) for transfer in plan.transfers}
    tasks = {task: _task(plan, where, task, manifest) for task in plan.tasks}
    planned = [item["primary"] for value in tasks.values() for item in value["initialisations"].values() if item["planned"]]
    correct(planned)
    for value in tasks.values():
        for item in value["initialisations"].values():
            for figures in [*([item["primary"]] if item["primary"] else []), *item["curve"]]:
                figures["significant"] = significant(figures)
    rows = [_row(task, name, figures, item, bool(stamped[name]))
            for task, value in tasks.items() for name, item in value["initialisations"].items()
            for figures in [*([item["primary"]] if item["primary"] else []), *item["curve"]]]  # fmt: skip
    sentences = _add_sentences(tasks, len(planned))
    beside = {
        "against": "scratch", "alpha": ALPHA, "draws": study.verdict.draws, "primary_max_labels": study.verdict.primary_max_labels,
        "family": len(planned), "stamps": leakage.stamps(plan, [run for runs in stamped.values() for run in runs]), "sentences": sentences,
        "tasks": tasks,
    }  # fmt: skip
    beside = _plain(beside)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_json(where.root / "verdict.json", beside)
    write_text(where.verdict, table_text(table))
    return table, beside


def table_text(table: pd.DataFrame) -> str:
    """Tab-separated; what does not apply is empty."""
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(_cell(name, value) for name, value in zip(COLUMNS, row, strict=True)) for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def pretrain_steps(plan: Plan, recipe: str | None) -> int:
    """Optimiser steps behind the weights: the recipe's own and those of the recipes that it continues."""
    steps = 0
    while recipe:
        steps += int(plan.recipes[recipe]["training"]["steps"])
        recipe = plan.recipes[recipe].get("from")
    return steps


def _task(plan: Plan, where: StudyFolder, task: str, manifest: pd.DataFrame) -> dict[str, Any]:
    study = plan.study_value()
    transfers = [transfer for transfer in plan.transfers if transfer.task == task]
    results = {transfer.initialisation: read_results(where.cases(transfer.transfer)) for transfer in transfers}
    scans = labelled_scans(manifest, task)
    for transfer in transfers:
        for size in results[transfer.initialisation].values():
            if set(size.dice) != set(scans["test"]["scan_id"]):
                raise ValueError(f"{where.cases(transfer.transfer)}: test scans differ from the manifest; run `vesalius finetune` again")
    verdict = TaskVerdict(results, study.verdict.draws, study.verdict.seed, study.verdict.primary_max_labels)
    return {
        "num_labelled": len(scans["train"]), "num_validation_labels": len(scans["validation"]), "num_test_cases": len(scans["test"]),
        "num_test_subjects": verdict.num_subjects,
        "initialisations": {t.initialisation: _initialisation(plan, where, t, verdict, len(scans["validation"])) for t in transfers},
    }  # fmt: skip


def _initialisation(plan: Plan, where: StudyFolder, transfer: Transfer, verdict: TaskVerdict, num_validation: int) -> dict[str, Any]:
    name = transfer.initialisation
    recipe = plan.study["initialisations"].get(name, {}).get("recipe")
    words = plan.recipes[recipe]["words"] if recipe and plan.recipes[recipe].get("words") else None
    search = where.transfer(transfer.transfer) / "search.json"
    planned = any(c["planned"] for c in plan.comparisons if (c["task"], c["initialisation"]) == (transfer.task, name))
    primary = verdict.primary(name)
    if planned and primary is None:
        raise ValueError(f"{where.plan}: {name} is planned but has no size up to verdict.primary_max_labels; raise it and fine-tune again")
    return {
        "recipe": recipe, "planned": planned, "pretrain_steps": pretrain_steps(plan, recipe),
        "words_steps": pretrain_steps(plan, words["encoder"]) if words else 0,
        "search": read_json(search) if plan.study["finetune"]["search"] and search.exists() else None,
        "labels_saved": verdict.saved(name), "primary": primary,
        "curve": [{**verdict.size(name, number), "num_validation_labels": num_validation} for number in verdict.results[name]],
    }  # fmt: skip


def _row(task: str, name: str, figures: dict[str, Any], item: dict[str, Any], saw_test: bool) -> dict[str, Any]:
    planned = item["planned"] and figures["num_labels"] == "primary"
    own = {"pretrain_steps": item["pretrain_steps"], "planned": planned, "saw_test_subjects": saw_test}
    known = {**figures, "task": task, "initialisation": name, **own}
    return {column: known.get(column) for column in COLUMNS}


def _add_sentences(tasks: dict[str, Any], family: int) -> list[str]:
    found = []
    for task, value in tasks.items():
        for name, item in value["initialisations"].items():
            item["sentence"] = None
            if item["primary"] and "diff_mean" in item["primary"]:
                item["sentence"] = sentence(task, name, item["primary"], item["planned"], family)
                found.append(item["sentence"])
    return found


def _cell(column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if column.startswith("num_") or column in ("wins", "ties", "losses") else f"{value:.6g}"
    return str(value)


def _plain(value: Any) -> Any:
    """JSON values: figures with six digits, NaN as null; the differences by subject stay with the table's maker."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "differences"}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value
