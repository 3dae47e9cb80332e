"""The leak guard: what a pretraining may see, checked before it starts and again by whoever uses its weights."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from pipeline.files import read_json
from pipeline.folder import StudyFolder
from pipeline.manifest import manifest_digest
from pipeline.plan import Plan
from pipeline.volumes.splits import divided
from pipeline.volumes.twins import read_twins


def check_manifest(manifest: pd.DataFrame, where: StudyFolder) -> None:
    """Refuses a manifest that has one person, exam, volume or pair of twins in several splits, whoever made it."""
    pairs = [(twin.scan_a, twin.scan_b) for twin in read_twins(where.root / "twins.tsv")]
    found = divided(manifest, pairs)
    if found:
        raise ValueError(f"{where.manifest}: {found}; run `vesalius split {where.root}` again")


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
