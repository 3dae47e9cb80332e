"""Account for every source file: which belong to a scan, which are companions or no images, which are refused and why.

Reads every header below the study's sources and labels. Writes, each only if it changed,

\b
inventory.tsv     file_id, status (volume, companion, not_image, left_out, quarantined, forgotten), code, flags (codes of what is odd
                  about its scans, which are right all the same: docs/reasons.md), scan_id, kind, modality, origin, licence: a row
                  a file, without its path. scan_id has spaces between the scans of a file that holds several, which is quarantined
                  only if all of them are; quarantine.tsv has a row for each that is refused. left_out are the later volumes of a
                  DICOM series of which the first, scan_id, was asked for (four_d)
quarantine.tsv    file_id, scan_id, stage, code, reason, remedy, origin, licence
shards/SHARD.tsv  scan_id, exam_id, subject_id, kind (dicom, nifti, metaimage; nifti:3 is volume 3 of a file, nifti:qform is
                  placed by its qform), modality, channel,
                  num_files, content (digest of sizes and times of its files and labels), spacing_mm, day (since the subject's first
                  exam, where DICOM says it), labels (names of tasks), flags, origin, licence: a row a scan

and the private crosswalk, which alone leads from ids to paths: crosswalk.tsv in $VESALIUS_PRIVATE (default ~/.vesalius), with
segments.tsv where labels are DICOM segmentations or structure sets: what their structures are called, and which class takes each. At last
it says how much disk the store will need at most, and stops where there is less.

\b
Examples:
  vesalius index results/demo
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipeline.folder import StudyFolder
    from pipeline.labels.mask_files import MaskTask
    from pipeline.labels.matching import Owners
    from pipeline.labels.names import Named
    from pipeline.plan import Plan
    from pipeline.scans.identity import Identity
    from pipeline.scans.inventory import Found3D, Inventory, Place

SHARD = (
    "scan_id", "exam_id", "subject_id", "kind", "modality", "channel", "num_files", "content", "spacing_mm", "day", "labels",
    "flags", "origin", "licence",
)  # fmt: skip


def run(folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")]) -> None:
    from pipeline.labels.mask_files import check_masks, match_masks, told_of_masks
    from pipeline.labels.matching import check_tasks
    from pipeline.plan import read_plan
    from pipeline.progress import Progress
    from pipeline.scans.cohorts import check_cohorts
    from pipeline.scans.identity import make_identity, read_forgotten
    from pipeline.scans.inventory import take_stock

    plan, where = read_plan(folder)
    channels = plan.study["channels"] or ()
    places = places_of(plan)
    with Progress("index", total=max(1, count_files(places)), unit="file") as progress:
        identity = make_identity(plan.study["identity"]["public_key"])
        found = take_stock(places, identity, channels, progress.advance)
    counts = Counter(found.files.counts("status"))
    if not counts:
        raise ValueError(
            f"sources: there is no file in {', '.join(s['path'] for s in plan.study['sources'])}; name the folder of the scans"
        )
    check_cohorts(found)
    tasks = mask_tasks(plan)
    masks = match_masks(found, tasks, channels)
    owners, names = match(plan, found, identity, masks.owners, tasks)
    forget(found, read_forgotten(where))
    write_private(where, found, owners, names)
    write_public(plan, where, found, owners)
    counts, num_scans = Counter(found.files.counts("status")), len(found.scans)
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    typer.echo(f"index: {counts.total()} files ({told}); {num_scans} scans")
    for line in told_of_masks(masks, tasks):
        typer.echo(f"index: {line}")
    check_masks(masks, tasks)
    check_tasks(found, owners, {name: task["labels"] for name, task in plan.tasks.items()})
    check(plan, where, counts, num_scans)
    check_disk(plan, where, found, owners)


def places_of(plan: Plan) -> list[Place]:
    """Folders of labels first, so that one inside a source is known for what it is."""
    from pipeline.scans.inventory import Place

    data = Path(plan.study["data"] or ".")
    folders = {name: task["labels"] for name, task in sorted(plan.tasks.items()) if task["labels"]}
    labels = [Place(Path(folder), _anchor(folder, data), task=name) for name, folder in folders.items()]
    sources = [
        Place(
            Path(s["path"]),
            _anchor(s["path"], data),
            s["modality"] or "",
            s["channel"] or "",
            s["origin"],
            s["licence"],
            subject=s["subject"] or "",
            four_d=s["four_d"],
            placement=s.get("placement") or "",
            cohort=s.get("cohort") or "",
        )
        for s in plan.study["sources"]
    ]
    return labels + sources


def count_files(places: list[Place]) -> int:
    """For the progress bar; a folder inside another counts twice."""
    import os

    return sum(len(files) for place in places for _, _, files in os.walk(place.path))


def _anchor(path: str, data: Path) -> str:
    """What ids know of a folder: its place below the study's data, so that moved data keep their ids; else its whole path."""
    whole = Path(path).absolute()
    return whole.relative_to(data.absolute()).as_posix() if whole.is_relative_to(data.absolute()) else whole.as_posix()


def forget(found: Inventory, forgotten: frozenset[str]) -> None:
    """Takes the scans of forgotten subjects out; of their files only the number stays."""
    from dataclasses import replace

    gone = {scan.scan_id for scan in found.scans if scan.subject_id in forgotten} if forgotten else set()
    for scan_id in gone:
        found.scans.remove(scan_id=scan_id)
    for number, file in found.files.numbered() if gone else ():
        if gone.intersection(file.scan_ids):
            found.files[number] = replace(file, status="forgotten", scan_id="", code=None)
            found.parts.remove(file_id=file.file_id)


def mask_tasks(plan: Plan) -> dict[str, MaskTask]:
    """Tasks whose labels are a file for each structure."""
    import os

    from pipeline.labels.mask_files import MaskTask

    tasks = [plan.task_value(name) for name in sorted(plan.tasks)]
    return {
        task.name: MaskTask(os.path.abspath(task.labels), rule, task.classes()) for task in tasks if (rule := task.mask_rule()) is not None
    }


def match(plan: Plan, found: Inventory, identity: Identity, masks: Owners, mask_tasks: Collection[str]) -> tuple[Owners, list[Named]]:
    """(scan_id -> {task: file_ids of its labels}, what structures of DICOM labels are called). ``masks`` have found their owners."""
    from pipeline.labels.matching import match_companions
    from pipeline.scans.labelling import match_labels, take_voxels_along

    channels = plan.study["channels"] or ()
    owners = {scan: dict(tasks) for scan, tasks in masks.items()}
    for scan, tasks in match_labels(found, channels, mask_tasks).items():
        owners[scan] = owners.get(scan, {}) | {task: (file,) for task, file in tasks.items()}
    take_voxels_along(found)
    rules = {name: plan.task_value(name).rule() for name in plan.tasks}
    everywhere = [name for name, task in plan.tasks.items() if not task["labels"]]
    drawn, names = match_companions(found, rules, everywhere, identity, channels)
    for scan, tasks in drawn.items():
        owners[scan] = {**tasks, **owners.get(scan, {})}
    return owners, names


def write_private(where: StudyFolder, found: Inventory, owners: Owners, names: list[Named]) -> None:
    from pipeline.labels.names import write_names
    from pipeline.scans.identity import crosswalk_rows, write_crosswalk

    write_crosswalk(where, crosswalk_rows(found, owners))
    named = {item.file_id for item in names}
    kept = {file.file_id for file in found.files.where(status=("companion", "quarantined")) if file.file_id in named} if named else set()
    write_names(where, [item for item in names if item.file_id in kept])


def write_public(plan: Plan, where: StudyFolder, found: Inventory, owners: Owners) -> None:
    """Everything that carries ids only; a table that did not change is not written, so that nothing wakes for nothing."""
    from pipeline.plan import shard_of
    from pipeline.scans.accounts import inventory_rows, refused_rows, write_accounts, writing_rows
    from pipeline.scans.days import first_dates

    owned = {file for tasks in owners.values() for files in tasks.values() for file in files}
    paths = {file.file_id: file.path for file in found.files if file.file_id in owned} if owned else {}
    first = first_dates(found.scans)
    with ExitStack() as stack:
        write = {shard: stack.enter_context(writing_rows(where.shard(shard), SHARD)) for shard in plan.shards}
        for scan in found.scans.ordered("scan_id"):
            labels = {task: [paths[file] for file in files] for task, files in owners.get(scan.scan_id, {}).items()}
            day = str(scan.date - first[scan.subject_id]) if scan.date else ""
            write[shard_of(scan.exam_id if plan.study["channels"] else scan.scan_id, plan.shards)](_shard_row(scan, labels, day))
    write_accounts(where, plan.shards, inventory_rows(found), refused_rows(found))


def _shard_row(scan: Found3D, labels: dict[str, list[Path]], day: str) -> dict[str, str]:
    from pipeline.scans.content import sources_of

    content = sources_of(tuple(scan.paths), scan.detached, labels)
    spacing = json.dumps([round(value, 4) for value in scan.spacing_mm]) if scan.spacing_mm else ""
    values = (
        scan.scan_id, scan.exam_id, scan.subject_id, scan.kind, scan.modality, scan.channel, str(len(scan.paths)), content, spacing,
        day, json.dumps(sorted(labels)), scan.flags, scan.place.origin, scan.place.licence,
    )  # fmt: skip
    return dict(zip(SHARD, values, strict=True))


def check(plan: Plan, where: StudyFolder, counts: Counter[str], num_scans: int) -> None:
    """Refuses to go on without a scan, or where more files were refused than the study allows."""
    if num_scans == 0:
        raise ValueError(f"sources: none of {sum(counts.values())} files is a scan that can be read; {where.quarantine} says why")
    share = counts["quarantined"] / sum(counts.values())
    if share > plan.study["max_refused"]:
        raise ValueError(
            f"max_refused: {share:.0%} of the files were refused, more than the {plan.study['max_refused']:.0%} that the study allows; "
            f"{where.quarantine} says why. Mend or remove them, or raise max_refused in the study"
        )


def check_disk(plan: Plan, where: StudyFolder, found: Inventory, owners: Owners) -> None:
    """Says how much disk the store will need; too little is a ``ValueError`` before anything is stored."""
    from pipeline.verbs.preprocess import settings_of
    from pipeline.volumes.forecast import MASK, PACKED, free_bytes, store_bytes, told, used_bytes

    scans = ((scan.shape, scan.spacing_mm, len(owners.get(scan.scan_id, ()))) for scan in found.scans)
    whole = store_bytes(scans, settings_of(plan, where)["spacing_mm"])
    needed, free = max(0, whole - used_bytes(where.store)), free_bytes(where.store)
    how = f"uncropped, int16 at {PACKED:.0%} of its size, masks at {MASK:.0%}, no checkpoints"
    typer.echo(f"index: the store will need at most {told(whole)} ({how}), {told(needed)} of them still to come; {told(free)} are free")
    if needed > free:
        raise ValueError(
            f"{where.store}: needs up to {told(needed)} more, but only {told(free)} are free there; free some, put the results on another "
            f"disk (--results), or set preprocess.spacing_mm to larger voxels"
        )
