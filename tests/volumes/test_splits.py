"""Splits are by cluster of subjects, reproducible, and stable under growth."""

import json

import pandas as pd
import pytest

from pipeline.volumes.splits import assign_splits, cluster_subjects, originals


def frame(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["scan_id", "exam_id", "subject_id", "digest"])


def test_subjects_are_joined_by_twins_digests_and_exams_and_by_nothing_else() -> None:
    scans = frame(
        ("s1", "e1", "p1", "d1"), ("s2", "e2", "p1", "d2"), ("s3", "e3", "p3", "d2"), ("s4", "e4", "p4", "d4"),
        ("s5", "e4", "p5", "d5"), ("s6", "e6", "p0", "d6"), ("s7", "e7", "p7", "d7"),
    )  # fmt: skip
    clusters = cluster_subjects(scans, [("s5", "s6")])
    assert clusters == {"s1": "p1", "s2": "p1", "s3": "p1", "s4": "p0", "s5": "p0", "s6": "p0", "s7": "p7"}


def labelled(number: int, unlabelled: int = 0) -> dict[str, tuple[str, ...]]:
    return {f"c{n:03d}": ("organ",) for n in range(number)} | {f"u{n:03d}": () for n in range(unlabelled)}


def test_each_split_has_its_number_and_unlabelled_clusters_train() -> None:
    split = assign_splits(labelled(30, 50), test=6, validation=4, seed=0, tasks=["organ"])
    values = list(split.values())
    assert (values.count("test"), values.count("validation"), values.count("train")) == (6, 4, 70)
    assert all(split[cluster] == "train" for cluster in split if cluster.startswith("u"))


def test_the_split_is_a_function_of_clusters_and_seed_alone() -> None:
    clusters = labelled(40)
    again = dict(reversed(clusters.items()))
    assert assign_splits(clusters, 8, 4, 0, ["organ"]) == assign_splits(again, 8, 4, 0, ["organ"])
    assert assign_splits(clusters, 8, 4, 0, ["organ"]) != assign_splits(clusters, 8, 4, 1, ["organ"])


def test_one_more_subject_moves_at_most_one_over_each_border() -> None:
    before = assign_splits(labelled(60), 20, 10, 0, ["organ"])
    for number in range(61, 70):
        after = assign_splits(labelled(number), 20, 10, 0, ["organ"])
        assert sum(before[cluster] != after[cluster] for cluster in before) <= 2
        before = after


def test_every_task_has_its_test_clusters() -> None:
    clusters = {f"a{n}": ("heart",) for n in range(12)} | {f"b{n}": ("brain",) for n in range(12)}
    split = assign_splits(clusters, 3, 2, 0, ["heart", "brain"])
    for letter in "ab":
        values = [value for cluster, value in split.items() if cluster.startswith(letter)]
        assert (values.count("test"), values.count("validation")) == (3, 2)


@pytest.mark.parametrize(("number", "fits"), [(10, False), (11, True)])
def test_too_few_labelled_clusters_name_the_setting(number: int, fits: bool) -> None:
    if fits:
        assign_splits(labelled(number, 20), 6, 4, 0, ["organ"])
        return
    with pytest.raises(ValueError, match=r"task organ: 10 subject clusters have labels, but split.test = 6 and split.validation = 4"):
        assign_splits(labelled(number, 20), 6, 4, 0, ["organ"])


def test_without_tasks_every_cluster_counts() -> None:
    split = assign_splits(labelled(0, 5), 1, 1, 0, [])
    assert sorted(split.values()) == ["test", "train", "train", "train", "validation"]


def test_the_labelled_and_larger_scan_of_a_group_is_the_original() -> None:
    none, some = "{}", json.dumps({"organ": [0, 1]})
    scans = pd.DataFrame(
        [("a", none, 10), ("b", some, 5), ("c", none, 90), ("d", none, 7), ("e", none, 70), ("f", none, 1)],
        columns=["scan_id", "labels", "num_voxels"],
    )
    assert originals(scans, [("a", "b"), ("b", "c"), ("d", "e")]) == {"a": "b", "c": "b", "d": "e"}


def test_pretraining_alone_needs_no_test_subjects():
    split = assign_splits({name: [] for name in "abc"}, test=0, validation=1, seed=0, tasks=[])
    assert sorted(split.values()) == ["train", "train", "validation"]
