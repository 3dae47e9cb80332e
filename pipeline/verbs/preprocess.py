"""Turn the scans of one shard into stored volumes: RAS+, resampled, cropped to the body, int16 with an intensity contract.

Reads shards/SHARD.tsv, the private crosswalk and the scans themselves. Writes the store, shards/SHARD.parquet (manifest rows before the
split: no cluster_id, split, twin_of), shards/SHARD.twins.parquet (scan_id, fingerprint) and shards/SHARD.refused.tsv (columns of
quarantine.tsv: file_id, scan_id, stage, code, reason, remedy, origin, licence; of labels also their task, and what their file counts as
from now on). Where scans of an exam are channels of one volume, all of them are refused with it, and the reason names the channel that is
wrong. Where labels are wrong, their image is stored without them. A scan whose source and settings are unchanged is not read again, unless
its labels were refused, so a call that was interrupted continues; scans that left the study leave the store, and one whose files are not
those that `index` saw is refused as CHANGED.

\b
Examples:
  vesalius preprocess results/demo 00
  vesalius preprocess results/demo 00 --workers 4 --memory-mb 4000
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
    from pipeline.volumes.jobs import Job, Outcome
    from pipeline.volumes.store import Store

Labels = dict[str, dict[str, tuple[str, ...]]]  # scan_id -> task -> files
MANIFEST_COLUMNS = (
    "scan_id", "exam_id", "subject_id", "channels", "modality", "spacing_mm", "shape", "affine", "body_low_mm", "body_high_mm",
    "window_low", "window_high", "slope", "inter", "foreground_mean", "foreground_std", "digest", "day", "flags", "labels", "origin",
    "licence",
)  # fmt: skip


def run(
    folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")],
    shard: Annotated[str, typer.Argument(metavar="SHARD", help="A shard of plan.json, such as 00.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that read scans side by side.")] = 1,
    memory_mb: Annotated[
        int | None, typer.Option(min=1, help="Memory that a worker may take for one scan; a larger scan is refused. Default: its share.")
    ] = None,
) -> None:
    from pipeline.lease import lease
    from pipeline.plan import read_plan
    from pipeline.volumes.memory import physical_mb

    plan, where = read_plan(folder)
    if shard not in plan.shards:
        raise ValueError(f"{where.plan}: the plan has no shard {shard!r}; it has {', '.join(plan.shards)}")
    with lease(where.root / "shards" / shard):
        prepare_shard(plan, where, shard, workers, memory_mb or physical_mb() // workers)


def prepare_shard(plan: Plan, where: StudyFolder, shard: str, workers: int, memory_mb: int) -> None:
    """Every scan of a shard that is not stored yet; then the shard's tables."""
    from functools import partial

    from pipeline.labels.lost import refused_rows, told_of
    from pipeline.labels.sources import read_source
    from pipeline.progress import Progress
    from pipeline.scans.since import since_index
    from pipeline.volumes.jobs import process_all
    from pipeline.volumes.store import Store

    for left in where.shard(shard).parent.glob(f".{shard}.*.tmp"):
        left.unlink()  # of a call that was killed: no other writes this shard now
    rows = read_shard(where, shard)
    files, labels, known = source_paths(plan, where)
    jobs, outcomes = shard_jobs(plan, where, rows, files, labels, {path: kind for path, (_, kind) in known.items()})
    store, parts = Store(where.store), {job.scan_id: {part.scan_id for part in job.parts} for job in jobs}
    remove_departed(plan, where, shard, store)
    with Progress(f"preprocess {shard}", total=max(1, len(jobs)), unit="scan") as progress:
        check = since_index(rows, files, labels)
        for outcome in process_all(jobs, partial(read_source, memory_mb=memory_mb), workers, memory_mb):
            outcomes.append(check(outcome, parts[outcome.scan_id], store))
            progress.advance()
    credit = {row.scan_id: (row.origin, row.licence) for row in rows.itertuples()}
    refused = refused_rows(jobs, outcomes, labels, {path: file_id for path, (file_id, _) in known.items()}, credit)
    write_shard(where, shard, rows, jobs, outcomes, store, refused)
    stored = [outcome for outcome in outcomes if not outcome.code]
    kept = sum(outcome.kept for outcome in stored)
    typer.echo(f"preprocess: shard {shard}: {len(stored)} stored ({kept} of them before), {len(outcomes) - len(stored)} refused")
    if any(outcome.lost for outcome in outcomes):
        typer.echo(
            "\n".join([f"preprocess: shard {shard}: labels that are refused; their images are stored without them:", *told_of(stored)])
        )


def read_shard(where: StudyFolder, shard: str) -> pd.DataFrame:
    """What `index` found for a shard, all columns as text."""
    import pandas as pd

    path = where.shard(shard)
    if not path.exists():
        raise ValueError(f"{path}: is missing; run `vesalius index {where.root}` first")
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def shard_jobs(
    plan: Plan, where: StudyFolder, rows: pd.DataFrame, files: dict[str, tuple[str, ...]], labels: Labels, kinds: dict[str, str]
) -> tuple[list[Job], list[Outcome]]:
    """What there is to do, and exams refused because a channel is missing or there twice; the rest as in ``source_paths``."""
    from pipeline.labels.sources import content_of_job, label_source
    from pipeline.volumes.jobs import Job, Outcome, Part

    channels = plan.study["channels"]
    settings, tasks = settings_of(plan, where), {name: plan.task_value(name) for name in plan.tasks}
    jobs, refused = [], []
    for _, group in rows.groupby("exam_id" if channels else "scan_id"):
        problem = channel_problem(group, channels) if channels else None
        if problem:
            refused += [Outcome(scan, *problem) for scan in group["scan_id"]]
            continue
        ordered = group.set_index("channel", drop=False).loc[channels] if channels else group
        parts = tuple(Part(row.scan_id, row.kind, files.get(row.scan_id, ()), row.modality, row.channel) for row in ordered.itertuples())
        found = {task: (part, paths) for part in reversed(parts) for task, paths in sorted(labels.get(part.scan_id, {}).items())}
        sources = {task: label_source(tasks[task], kinds, *own) for task, own in sorted(found.items())}
        identity = {key: str(ordered.iloc[0][key]) for key in ("exam_id", "subject_id", "origin", "licence")}
        scan_id = volume_id(ordered.iloc[0]["scan_id"], identity["exam_id"], channels)
        jobs.append(Job(scan_id, identity, parts, sources, content_of_job(list(ordered["content"]), sources), settings, str(where.store)))
    return jobs, refused


def volume_id(scan_id: str, exam_id: str, channels: list[str] | None) -> str:
    """Of a stored volume: the scan's own, or a hash of the exam whose sequences it unites."""
    from pipeline.files import digest_of

    return digest_of([exam_id, channels])[:16] if channels else scan_id


def channel_problem(exam: pd.DataFrame, channels: list[str]) -> tuple[str, str, str] | None:
    """Code, reason and remedy if an exam has not exactly one scan of each channel."""
    counts = exam["channel"].value_counts()
    missing = [channel for channel in channels if counts.get(channel, 0) == 0]
    double = [channel for channel in channels if counts.get(channel, 0) > 1]
    if missing:
        remedy = "Add the sequence to the exam, or drop it from `channels` in the study."
        return "MISSING_CHANNEL", f"The exam has no scan of the channel {', '.join(missing)}.", remedy
    if double:
        return "AMBIGUOUS_CHANNEL", f"The exam has several scans of the channel {', '.join(double)}.", "Keep one scan of each channel."
    return None


def source_paths(plan: Plan, where: StudyFolder) -> tuple[dict[str, tuple[str, ...]], Labels, dict[str, tuple[str, str]]]:
    """From the private crosswalk: files by scan id, label files by scan id and task, and (file_id, kind) of each label file."""
    from pipeline.scans.accounts import read_accounts
    from pipeline.scans.identity import read_crosswalk

    crosswalk = read_crosswalk(where)
    scans, drawn = (crosswalk[crosswalk["kind"] == kind] for kind in ("scan", "labels"))
    files = {scan: tuple(paths) for scan, paths in scans.groupby("scan_id")["path"]}
    drawn = drawn[(drawn["scan_id"] != "") & drawn["task"].isin(list(plan.tasks))]
    labels: Labels = {}
    for (scan, task), paths in drawn.groupby(["scan_id", "task"])["path"]:
        labels.setdefault(scan, {})[task] = tuple(sorted(paths))
    kinds = {row["file_id"]: row["kind"] for row in read_accounts(where)[0]} if len(drawn) else {}
    return files, labels, {row.path: (row.file_id, kinds[row.file_id]) for row in drawn.itertuples()}


def settings_of(plan: Plan, where: StudyFolder) -> dict[str, Any]:
    """Arguments of ``prepare``; "median" becomes the median over every scan of the study, to 0.1 mm, so that few new scans leave it."""
    import numpy as np

    settings = plan.study_value().preprocess.model_dump()
    if settings["spacing_mm"] == "median":
        spacings = [json.loads(value) for shard in plan.shards for value in read_shard(where, shard)["spacing_mm"] if value]
        settings["spacing_mm"] = tuple(float(s) for s in np.round(np.median(spacings, axis=0), 1)) if spacings else "native"
    return settings


def remove_departed(plan: Plan, where: StudyFolder, shard: str, store: Store) -> None:
    """Takes out of the store what no shard lists any more. Each shard looks at the ids that hash to it."""
    from pipeline.plan import shard_of

    channels = plan.study["channels"]
    listed = [read_shard(where, name) for name in plan.shards]
    wanted = {volume_id(scan, exam, channels) for rows in listed for scan, exam in zip(rows["scan_id"], rows["exam_id"], strict=True)}
    for scan in sorted(store.names() - wanted):
        if shard_of(scan, plan.shards) == shard:
            store.remove(scan)


def write_shard(
    where: StudyFolder,
    shard: str,
    rows: pd.DataFrame,
    jobs: list[Job],
    outcomes: list[Outcome],
    store: Store,
    refused: list[dict[str, str]],
) -> None:
    """The three tables of a shard, sorted, the manifest rows last."""
    import pandas as pd

    from pipeline.files import write_table, write_text
    from pipeline.scans.accounts import LATE
    from pipeline.scans.flags import united

    parts = {job.scan_id: [part.scan_id for part in job.parts] for job in jobs}
    lines = ["\t".join(LATE), *("\t".join(row[column] for column in LATE) for row in refused)]
    scans = sorted(outcome.scan_id for outcome in outcomes if not outcome.code)
    prints = pd.DataFrame({"scan_id": scans, "fingerprint": [store.fingerprint(scan).tobytes() for scan in scans]})
    manifest = pd.DataFrame([manifest_row(scan, store) for scan in scans], columns=MANIFEST_COLUMNS)
    days = dict(zip(rows["scan_id"], rows.get("day", [""] * len(rows)), strict=True))
    flags = dict(zip(rows["scan_id"], rows.get("flags", [""] * len(rows)), strict=True))
    manifest["flags"] = [united(flags[part] for part in parts[scan]) for scan in scans]
    manifest["day"] = pd.array([int(day) if (day := days[parts[scan][0]]) else pd.NA for scan in scans], dtype="Int64")
    write_table(where.root / "shards" / f"{shard}.twins.parquet", lambda path: prints.to_parquet(path, index=False))
    write_text(where.shard_refused(shard), "".join(f"{line}\n" for line in lines))
    write_table(where.shard_manifest(shard), lambda path: manifest.to_parquet(path, index=False))


def manifest_row(scan_id: str, store: Store) -> dict[str, Any]:
    """What the manifest says of a stored volume, but for cluster_id, split and twin_of."""
    import numpy as np

    meta = store.meta(scan_id)
    values = {key: meta[key] for key in MANIFEST_COLUMNS if key in meta}
    return values | {
        "scan_id": scan_id,
        "channels": json.dumps(meta["channels"]),
        "modality": "+".join(dict.fromkeys(meta["modalities"])),
        "shape": meta["shape"][1:],
        **{f"foreground_{name}": np.array([c[name] if c else np.nan for c in meta["foreground"]]) for name in ("mean", "std")},
        "labels": json.dumps(meta["label_values"], sort_keys=True),
    }
