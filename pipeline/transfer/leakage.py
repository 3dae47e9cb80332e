"""Leakage: no test or validation subject may be among the labels that are learned from, nor in the pool of a pretraining."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from pipeline.plan import Plan
from pipeline.training.guard import check_runs
from pipeline.volumes.splits import PEOPLE

__all__ = ["check_labelled", "check_runs", "stamps"]


def check_labelled(train: pd.DataFrame, held_out: pd.DataFrame) -> None:
    """Refuses when clusters, subjects, exams or voxels of the labelled training scans and of the validation or test scans meet."""
    for column in PEOPLE:
        met = sorted(set(train[column]) & set(held_out[column]))
        if met:
            what = "subject clusters" if column == "cluster_id" else f"values of {column}"
            raise ValueError(f"manifest: {len(met)} {what} are in train and held out, such as {met[0]}; run `vesalius split` again")


def stamps(plan: Plan, stamped: Iterable[str]) -> list[str]:
    """What a reader of the verdict must know: sentences, none if there is nothing to say."""
    runs = sorted(set(stamped))
    if runs:
        return [f"Not an honest test: {len(runs)} pretraining runs saw test subjects without their labels (pool.allow_test_subjects)."]
    if plan.study_value().pool.allow_test_subjects:
        return ["The study allows test subjects in the pool (pool.allow_test_subjects), but no run saw one."]
    return []
