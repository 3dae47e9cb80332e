"""Who may be in which split: subjects that share voxels form a cluster, and a cluster is never divided."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import pandas as pd

PEOPLE = ("cluster_id", "subject_id", "exam_id", "digest")


def cluster_subjects(frame: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """scan_id -> cluster_id for rows of scan_id, exam_id, subject_id, digest; pairs are twins by scan id.

    Subjects are joined by a twin, by an equal digest, and by an exam that stands under both. The cluster is named after its smallest
    subject_id.
    """
    parent: dict[str, str] = {subject: subject for subject in frame["subject_id"]}

    def root(subject: str) -> str:
        while parent[subject] != subject:
            parent[subject] = parent[parent[subject]]
            subject = parent[subject]
        return subject

    def join(first: str, second: str) -> None:
        a, b = sorted((root(first), root(second)))
        parent[b] = a

    subject_of = dict(zip(frame["scan_id"], frame["subject_id"], strict=True))
    for column in ("exam_id", "digest"):
        for _, subjects in frame.groupby(column)["subject_id"]:
            for subject in subjects.iloc[1:]:
                join(subjects.iloc[0], subject)
    for first, second in pairs:
        join(subject_of[first], subject_of[second])
    return {scan: root(subject) for scan, subject in subject_of.items()}


def assign_splits(labelled: Mapping[str, Iterable[str]], test: int, validation: int, seed: int, tasks: Iterable[str]) -> dict[str, str]:
    """cluster_id -> train, validation or test; ``labelled`` names the tasks for which each cluster has labels (none for the rest).

    Clusters stand in the order of a hash of (seed, cluster_id). For each task its first ``test`` labelled clusters are test, the next
    ``validation`` ones validation; without tasks all clusters count. So a new scan moves at most one cluster over each border.
    Too few clusters are a ``ValueError``.
    """
    order = sorted(labelled, key=lambda cluster: hashlib.sha256(f"{seed}/{cluster}".encode()).digest())
    eligible = {task: [cluster for cluster in order if task in set(labelled[cluster])] for task in tasks} or {"": order}
    chosen = {cluster for clusters in eligible.values() for cluster in clusters[:test]}
    split = dict.fromkeys(order, "train") | dict.fromkeys(chosen, "test")
    for task, clusters in eligible.items():
        left = [cluster for cluster in clusters if cluster not in chosen]
        if len(clusters) < test + validation + 1 or len(left) < validation + 1:
            what = f"task {task}: {len(clusters)} subject clusters have labels" if task else f"there are {len(clusters)} subject clusters"
            raise ValueError(
                f"{what}, but split.test = {test} and split.validation = {validation} need at least {test + validation + 1} "
                f"(one to train on); lower them in the study, or add labelled subjects"
            )
        split.update(dict.fromkeys(left[:validation], "validation"))
    return split


def divided(frame: pd.DataFrame, pairs: Iterable[tuple[str, str]] = ()) -> str:
    """What is in several splits and must not be (a cluster, subject, exam, voxel digest, or a pair of twins), in words; "" if nothing is.

    ``frame`` has scan_id, split, twin_of and the columns of people. Splits that ``assign_splits`` made never are divided; a manifest that
    was edited, or put together from two, may be.
    """
    split = dict(zip(frame["scan_id"], frame["split"], strict=True))
    for column in PEOPLE:
        counts = frame.groupby(column)["split"].nunique()
        torn = counts.index[counts > 1]
        if len(torn):
            return f"{len(torn)} values of {column} stand in several splits, such as {torn[0]}"
    named = [(row.scan_id, row.twin_of) for row in frame.itertuples() if row.twin_of]
    torn = [pair for pair in [*named, *pairs] if pair[0] in split and pair[1] in split and split[pair[0]] != split[pair[1]]]
    return f"{len(torn)} pairs of twins stand in two splits, such as {torn[0][0]} and {torn[0][1]}" if torn else ""


def originals(frame: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """scan_id -> scan_id that it repeats, for twins only. Of a group the original is labelled rather than not, then the larger scan.

    ``frame`` has scan_id, labels (mapping as JSON, ``{}`` if none) and num_voxels.
    """
    neighbours: dict[str, set[str]] = {}
    for first, second in pairs:
        neighbours.setdefault(first, set()).add(second)
        neighbours.setdefault(second, set()).add(first)
    rank = {row.scan_id: (row.labels == "{}", -row.num_voxels, row.scan_id) for row in frame.itertuples()}
    repeats: dict[str, str] = {}
    seen: set[str] = set()
    for scan in sorted(neighbours):
        if scan in seen:
            continue
        group, pending = set(), [scan]
        while pending:
            current = pending.pop()
            if current not in group:
                group.add(current)
                pending.extend(neighbours[current])
        seen |= group
        first = min(group, key=rank.__getitem__)
        repeats.update(dict.fromkeys(group - {first}, first))
    return repeats
