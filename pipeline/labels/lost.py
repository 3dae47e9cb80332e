"""Labels that turned out wrong when they were read: their image stays, as one without labels, and they are accounted for by themselves.

A single label file that is broken costs its own scan's labels. Labels of a task that are all refused, or more of them than the study's
``max_refused`` allows, are a mistake of the study: that stops it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from pipeline.folder import StudyFolder
from pipeline.scans.accounts import LATE, Row, read_late
from pipeline.scans.quarantine import REASONS, Code, quarantine_row
from pipeline.volumes.jobs import Job, Outcome

Labels = Mapping[str, Mapping[str, Sequence[str]]]  # scan_id -> task -> files
Lost = dict[str, dict[str, str]]  # task -> scan_id -> code
SHOWN = 20


def refused_rows(
    jobs: Sequence[Job], outcomes: Sequence[Outcome], labels: Labels, file_ids: Mapping[str, str], credit: Mapping[str, tuple[str, str]]
) -> list[Row]:
    """Rows of SHARD.refused.tsv: scans, and labels whose image is stored without them. ``file_ids``: path of a label file -> its id;
    ``credit``: scan_id -> (origin, licence)."""
    by_id, rows = {job.scan_id: job for job in jobs}, []
    for outcome in sorted(outcomes, key=lambda outcome: outcome.scan_id):
        job = by_id.get(outcome.scan_id)
        scans = [part.scan_id for part in job.parts] if job else [outcome.scan_id]
        if outcome.code:
            told = (outcome.code, _of_exam(outcome, len(scans)), outcome.remedy)
            rows += [dict(zip(LATE, ("", scan, "preprocess", *told, *credit[scan], "", ""), strict=True)) for scan in scans]
        elif job:
            rows += _lost_rows(outcome, job, labels, file_ids, credit[scans[0]])
    return rows


def _of_exam(outcome: Outcome, num_channels: int) -> str:
    """The reason; where scans are the channels of one volume, each is told whose it is, since all of them go."""
    if num_channels == 1:
        return outcome.reason
    return f"{f'Channel {outcome.channel}' if outcome.channel else 'The one volume'} of its exam: {outcome.reason}"


def _lost_rows(outcome: Outcome, job: Job, labels: Labels, file_ids: Mapping[str, str], credit: tuple[str, str]) -> list[Row]:
    """A row a label file at fault. One from which another task's labels were read stays a companion."""
    gone, rows = {wrong.task for wrong in outcome.lost}, []
    for wrong in outcome.lost:
        owner = next(part.scan_id for part in job.parts if wrong.task in labels.get(part.scan_id, {}))
        used = {path for task, paths in labels[owner].items() if task not in gone for path in paths}
        for path in wrong.paths or labels[owner][wrong.task]:
            row = quarantine_row("preprocess", Code(wrong.code), file_ids[path], owner, *credit)
            row["reason"] = f"Labels of task {wrong.task}: {row['reason']}"
            rows.append(row | {"task": wrong.task, "status": "companion" if path in used else "quarantined"})
    return rows


def told_of(outcomes: Sequence[Outcome]) -> list[str]:
    """What is wrong with each of the labels that were refused, for the log."""
    found = [(outcome.scan_id, wrong) for outcome in sorted(outcomes, key=lambda o: o.scan_id) for wrong in outcome.lost]
    lines = [f"labels of task {wrong.task} of scan {scan} are refused: {wrong.code}: {wrong.told}" for scan, wrong in found[:SHOWN]]
    return [*lines, *([f"{len(found) - SHOWN} more labels are refused"] if len(found) > SHOWN else [])]


def lost_labels(where: StudyFolder, shards: Sequence[str]) -> Lost:
    """What `preprocess` refused of every task."""
    found: Lost = defaultdict(dict)
    for row in read_late(where, shards):
        if row.get("task"):
            found[row["task"]][row["scan_id"]] = row["code"]
    return dict(found)


def check_lost(lost: Lost, labelled: Mapping[str, Sequence[str]], most: float) -> None:
    """Raises ``ValueError`` for a task none of whose labels could be used, or of which a larger share than ``most`` was refused.
    ``labelled``: ids of the volumes that have labels of each task."""
    for task, own in sorted(lost.items()):
        left = labelled.get(task, ())
        share = len(own) / (len(own) + len(left))
        if left and share <= most:
            continue
        why = "none is left" if not left else f"that is {share:.0%}, and max_refused of the study allows {most:.0%}"
        raise ValueError(f"tasks.{task}: {remaining(task, lost, labelled)}: {why}.{_remedies(own)}")


def remaining(task: str, lost: Lost, labelled: Mapping[str, Sequence[str]]) -> str:
    """How many scans of a task have labels, which they are, and whose labels were refused."""
    left, own = sorted(labelled.get(task, ())), lost.get(task, {})
    told = f"{len(left)} scans have labels{_listed(left)}"
    return f"{told}, and the labels of {len(own)} were refused{_listed([f'{scan} {code}' for scan, code in sorted(own.items())])}"


def summary(task: str, lost: Lost, labelled: Mapping[str, Sequence[str]]) -> str:
    """One line for the log."""
    codes = ", ".join(f"{code} {number}" for code, number in sorted(Counter(lost[task].values()).items()))
    return f"task {task}: {len(labelled.get(task, ()))} scans have labels; those of {len(lost[task])} were refused ({codes})"


def _listed(items: Sequence[str]) -> str:
    if not items:
        return ""
    return f" ({', '.join(items[:SHOWN])}{f' and {len(items) - SHOWN} more' if len(items) > SHOWN else ''})"


def _remedies(own: Mapping[str, str]) -> str:
    """Each code's sentence and remedy, and how to find the files."""
    lines = [f"\n  {code}: {' '.join(REASONS[Code(code)])}" for code in sorted(set(own.values()))]
    return (
        f"{''.join(lines)}\n  crosswalk.tsv in the study's private folder ($VESALIUS_PRIVATE, default ~/.vesalius) leads from scan_id and "
        "task to the file; mend the labels, or take them out of the task's `labels`, then run again"
    )
