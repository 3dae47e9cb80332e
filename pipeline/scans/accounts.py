"""What was refused, in one place: by ``index`` from headers, by ``preprocess`` from voxels. Reading it again changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.files import replacing, write_if_changed
from pipeline.folder import StudyFolder
from pipeline.scans.quarantine import COLUMNS

INVENTORY = ("file_id", "status", "code", "flags", "scan_id", "kind", "modality", "origin", "licence")
LATE = (*COLUMNS, "task", "status")  # of SHARD.refused.tsv
Row = dict[str, str]


def read_accounts(where: StudyFolder) -> tuple[list[Row], list[Row]]:
    """(rows of inventory.tsv, rows of quarantine.tsv) as ``index`` left them, without what came from ``preprocess``."""
    quarantined = _read(where.quarantine)
    refused = [row for row in quarantined if row["stage"] == "index"]
    by_index = {(row["file_id"], row["scan_id"], row["code"]) for row in refused}
    labels = {row["file_id"] for row in quarantined if row["stage"] != "index"} - {""}
    files = _read(where.inventory)
    for row in files:
        row.setdefault("flags", "")  # as `index` wrote it before there were any
        if row["status"] == "quarantined" and (row["file_id"], row["scan_id"], row["code"]) not in by_index:
            row |= {"status": "companion" if row["file_id"] in labels else "volume", "code": ""}
    return files, refused


def read_late(where: StudyFolder, shards: Sequence[str]) -> list[Row]:
    """What ``preprocess`` refused: a row a scan, without a file; or a label file, with the ``task`` whose labels it was to give, and the
    ``status`` that is left to it."""
    return [row for shard in shards for row in _read(where.shard_refused(shard))]


def write_accounts(where: StudyFolder, shards: Sequence[str], files: list[Row], refused: list[Row]) -> None:
    """Writes both tables with what ``preprocess`` refused; neither is touched if it would not change."""
    late = read_late(where, shards)
    scans_of = {row["scan_id"]: row["code"] for row in late if not row["file_id"]}
    labels_of = {row["file_id"]: row["code"] for row in late if row.get("status") == "quarantined"}
    for row in files:
        scans = row["scan_id"].split()
        if row["status"] == "volume" and scans and all(scan in scans_of for scan in scans):
            row |= {"status": "quarantined", "code": scans_of[scans[0]]}
        elif row["status"] == "companion" and row["file_id"] in labels_of:
            row |= {"status": "quarantined", "code": labels_of[row["file_id"]]}
    write_rows(where.inventory, INVENTORY, files)
    write_rows(where.quarantine, COLUMNS, [*refused, *late])


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """A tab-separated table, rewritten only if it changed."""
    lines = [columns, *([row[column] for column in columns] for row in rows)]
    write_if_changed(path, "".join("\t".join(line) + "\n" for line in lines))


def private_rows(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """A table that names the user's files: mode 0600 from its first byte on, odd characters escaped as in Python."""
    with replacing(path) as temporary, os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write("\t".join(columns) + "\n")
        stream.writelines("\t".join(escaped(row[column]) for column in columns) + "\n" for row in rows)


def escaped(text: str) -> str:
    """Text that stays on its line and in its column; only odd text is changed."""
    return text.encode("unicode_escape").decode("ascii") if not text.isascii() or not text.isprintable() or "\\" in text else text


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    header, *lines = path.read_text().splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
