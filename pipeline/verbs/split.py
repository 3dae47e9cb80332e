"""Find twins and split by cluster of subjects: merge the shards into the manifest.

Reads plan.json, shards/SHARD.parquet, shards/SHARD.twins.parquet and shards/SHARD.refused.tsv. Writes

\b
manifest.parquet  one row a stored volume (columns: pipeline/manifest.py)
twins.tsv         scan_a, scan_b, kind (voxels, patches, likeness), similarity: pairs that repeat each other
split.json        per split: clusters, subjects, scans, and scans with labels of each task
inventory.tsv, quarantine.tsv  with what `preprocess` refused, beside what `index` did

A cluster is what subjects become that share an exam, voxels or a twin; it is never divided. For each task the study's split.test and
split.validation count clusters with labels; all others, labelled or not, are train. A twin stays in the manifest with twin_of set.
A scan whose labels `preprocess` refused counts as one without labels; a task that has none left, or lost more than max_refused, stops it.

\b
Examples:
  vesalius split results/demo
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.folder import StudyFolder
    from pipeline.plan import Plan
    from pipeline.volumes.twins import Twin


def run(folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")]) -> None:
    from pipeline.files import write_json, write_text
    from pipeline.labels.lost import check_lost, lost_labels, remaining, summary
    from pipeline.manifest import write_manifest
    from pipeline.plan import read_plan
    from pipeline.scans.accounts import read_accounts, write_accounts
    from pipeline.volumes.twins import find_twins

    plan, where = read_plan(folder)
    rows = merged_rows(plan, where)
    write_accounts(where, plan.shards, *read_accounts(where))
    if rows.empty:
        raise ValueError(f"{where.quarantine}: every scan was refused, so there is nothing to split; it says why")
    lost, labelled = lost_labels(where, plan.shards), labelled_by_task(rows)
    for task in sorted(lost):
        typer.echo(f"split: {summary(task, lost, labelled)}")
    check_lost(lost, labelled, plan.study["max_refused"])
    twins = find_twins(read_fingerprints(plan, where, set(rows["scan_id"])))
    try:
        frame = assign(rows, twins, plan)
    except ValueError as error:
        left = "".join(f"; task {task}: {remaining(task, lost, labelled)}" for task in sorted(lost))
        raise ValueError(f"study {plan.study['name']}: {error}{left}") from error
    check_transfers(plan, frame)
    header = "scan_a\tscan_b\tkind\tsimilarity\n"
    write_text(where.root / "twins.tsv", header + "".join(f"{t.scan_a}\t{t.scan_b}\t{t.kind}\t{t.similarity:g}\n" for t in twins))
    counts = count(frame, sorted(plan.tasks))
    write_json(where.root / "split.json", counts)
    write_manifest(frame, where.manifest)
    typer.echo(table(counts, sorted(plan.tasks)))
    for task in sorted(plan.tasks):
        if absent := never_drawn(frame, task, plan.task_value(task).classes()):
            typer.echo(f"split: task {task}: no training scan has {', '.join(absent)}, so nothing can learn it")
    typer.echo(f"split: {where.manifest} has {len(frame)} volumes, {(frame['twin_of'] != '').sum()} of them twins of another")


def merged_rows(plan: Plan, where: StudyFolder) -> pd.DataFrame:
    """The manifest rows of all shards, sorted by scan id."""
    import pandas as pd

    frames = []
    for shard in plan.shards:
        path = where.shard_manifest(shard)
        if not path.exists():
            raise ValueError(f"{path}: is missing; run `vesalius preprocess {where.root} {shard}` first")
        frames.append(pd.read_parquet(path))
    frames = [frame for frame in frames if len(frame)] or frames[:1]
    return pd.concat(frames, ignore_index=True).sort_values("scan_id", ignore_index=True)


def labelled_by_task(rows: pd.DataFrame) -> dict[str, list[str]]:
    """task -> ids of the volumes that have labels of it."""
    found: dict[str, list[str]] = {}
    for scan, labels in zip(rows["scan_id"], rows["labels"], strict=True):
        for task in json.loads(labels):
            found.setdefault(task, []).append(scan)
    return found


def read_fingerprints(plan: Plan, where: StudyFolder, scans: set[str]) -> dict[str, Any]:
    """scan_id -> Fingerprint, from the shards."""
    import pandas as pd

    from pipeline.volumes.fingerprint import Fingerprint

    prints = {}
    for shard in plan.shards:
        path = where.root / "shards" / f"{shard}.twins.parquet"
        if not path.exists():
            raise ValueError(f"{path}: is missing; run `vesalius preprocess {where.root} {shard}` again")
        frame = pd.read_parquet(path)
        prints.update({scan: Fingerprint.unpacked(data) for scan, data in zip(frame["scan_id"], frame["fingerprint"], strict=True)})
    missing = scans - prints.keys()
    if missing:
        raise ValueError(f"{where.root / 'shards'}: {len(missing)} scans have no fingerprint; run `vesalius preprocess` again")
    return {scan: prints[scan] for scan in scans}


def assign(rows: pd.DataFrame, twins: list[Twin], plan: Plan) -> pd.DataFrame:
    """The rows with cluster_id, split and twin_of."""
    import numpy as np

    from pipeline.volumes.splits import assign_splits, cluster_subjects, originals

    pairs = [(twin.scan_a, twin.scan_b) for twin in twins]
    clusters = rows["scan_id"].map(cluster_subjects(rows, pairs))
    labelled: dict[str, set[str]] = {cluster: set() for cluster in clusters}
    for cluster, labels in zip(clusters, rows["labels"], strict=True):
        labelled[cluster] |= json.loads(labels).keys()
    settings = plan.study_value().split
    splits = assign_splits(labelled, settings.test, settings.validation, settings.seed, sorted(plan.tasks))
    repeats = originals(rows.assign(num_voxels=[int(np.prod(shape)) for shape in rows["shape"]]), pairs)
    return rows.assign(cluster_id=clusters, split=clusters.map(splits), twin_of=rows["scan_id"].map(lambda scan: repeats.get(scan, "")))


def check_transfers(plan: Plan, frame: pd.DataFrame) -> None:
    """What fine-tuning asks for must be there: told now, not after the pretraining."""
    from pipeline.transfer.cells import check_sizes
    from pipeline.transfer.labelled import labelled_scans

    available = {task: len(labelled_scans(frame, task)["train"]) for task in plan.tasks}
    for transfer in plan.transfers:
        try:
            check_sizes(plan, transfer, available[transfer.task])
        except ValueError as error:
            raise ValueError(f"study {plan.study['name']}: {error}") from error


def never_drawn(frame: pd.DataFrame, task: str, classes: dict[int, str]) -> list[str]:
    """Classes, as the task names them, that no labels of the train split hold."""
    drawn = {value for labels in frame.loc[frame["split"] == "train", "labels"] for value in json.loads(labels).get(task, ())}
    return [f"{name} ({value})" for value, name in classes.items() if value not in drawn]


def count(frame: pd.DataFrame, tasks: list[str]) -> dict[str, dict[str, Any]]:
    """Per split: how many clusters, subjects, scans, and scans with labels of each task."""
    from pipeline.manifest import SPLITS

    result = {}
    for split in SPLITS:
        part = frame[frame["split"] == split]
        labels = [json.loads(value) for value in part["labels"]]
        result[split] = {
            "clusters": int(part["cluster_id"].nunique()),
            "subjects": int(part["subject_id"].nunique()),
            "scans": len(part),
            "twins": int((part["twin_of"] != "").sum()),
            "labelled": {task: sum(task in value for value in labels) for task in tasks},
        }
    return result


def table(counts: dict[str, dict[str, Any]], tasks: list[str]) -> str:
    """The counts as lines of fixed width."""
    columns = ["clusters", "subjects", "scans", "twins"]
    lines = ["split".ljust(12) + "".join(name.rjust(10) for name in columns) + "".join(f"  labels:{task}" for task in tasks)]
    for split, values in counts.items():
        labelled = "".join(str(values["labelled"][task]).rjust(len(task) + 9) for task in tasks)
        lines.append(split.ljust(12) + "".join(str(values[name]).rjust(10) for name in columns) + labelled)
    return "\n".join(lines)
