"""Leakage: no test or validation subject may be among the labels that are learned from, nor in the pool of a pretraining."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from pipeline.files import read_json
from pipeline.folder import StudyFolder
from pipeline.manifest import manifest_digest
from pipeline.plan import Plan


def check_labelled(train: pd.DataFrame, held_out: pd.DataFrame) -> None:
    """Refuses when subject clusters of the labelled training scans and of the validation or test scans meet."""
    met = sorted(set(train["cluster_id"]) & set(held_out["cluster_id"]))
    if met:
        raise ValueError(f"manifest: {len(met)} subject clusters are in train and held out, such as {met[0]}; run `vesalius split` again")


def check_runs(plan: Plan, where: StudyFolder, runs: Iterable[str], manifest: pd.DataFrame) -> list[str]:
    """Refuses when a run, or one that it builds on, saw a held-out subject cluster; returns the runs allowed to see test subjects.

    ``runs/<run>/run.json`` says what a run saw. Only ``pool.allow_test_subjects`` allows test subjects, and then the verdict says
    so; validation subjects are never allowed. A run made from another manifest is refused too: its pool is not this one.
    """
    test, validation = (set(manifest.loc[manifest["split"] == split, "cluster_id"]) for split in ("test", "validation"))
    digest, allowed, stamped = manifest_digest(manifest), plan.study_value().pool.allow_test_subjects, []
    for run in _with_needs(plan, runs):
        path = where.run(run) / "run.json"
        if not path.exists():
            raise ValueError(f"{path}: the run has not been made; run `vesalius pretrain {where.root} {run}` first")
        card = read_json(path)
        seen = set(card["clusters"])
        if card["manifest_digest"] != digest:
            raise ValueError(f"{path}: the run was made from another manifest; run `vesalius pretrain {where.root} {run}` again")
        if seen & validation:
            raise ValueError(f"{path}: clusters: {_some(seen & validation)} of validation subjects; run `vesalius split` and the run again")
        if seen & test and not allowed:
            raise ValueError(
                f"{path}: clusters: {_some(seen & test)} of test subjects were pretrained on; split and pretrain again, or say "
                "pool.allow_test_subjects, and the verdict will say so too"
            )
        if seen & test:
            stamped.append(run)
    return stamped


def stamps(plan: Plan, stamped: Iterable[str]) -> list[str]:
    """What a reader of the verdict must know: sentences, none if there is nothing to say."""
    runs = sorted(set(stamped))
    if runs:
        return [f"Not an honest test: {len(runs)} pretraining runs saw test subjects without their labels (pool.allow_test_subjects)."]
    if plan.study_value().pool.allow_test_subjects:
        return ["The study allows test subjects in the pool (pool.allow_test_subjects), but no run saw one."]
    return []


def _with_needs(plan: Plan, runs: Iterable[str]) -> list[str]:
    found: list[str] = []
    pending = list(runs)
    while pending:
        run = pending.pop(0)
        if run not in found:
            found.append(run)
            pending.extend(plan.run(run).needs)
    return found


def _some(clusters: set[str]) -> str:
    return f"{len(clusters)} clusters, such as {min(clusters)},"
