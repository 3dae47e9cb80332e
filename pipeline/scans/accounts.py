"""What was refused, in one place: by ``index`` from headers, by ``preprocess`` from voxels. Reading it again changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from heapq import merge
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TextIO

from pipeline.files import replacing
from pipeline.folder import StudyFolder
from pipeline.scans.flags import united
from pipeline.scans.quarantine import COLUMNS, quarantine_row
from pipeline.scans.stock import SCANS_KEPT, Inventory

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


def inventory_rows(found: Inventory) -> Iterator[Row]:
    """By file id, as the headers have it."""
    scan_of = lru_cache(SCANS_KEPT)(found.scan)
    for file in found.files.ordered("file_id"):
        scans = [scan for scan_id in file.scan_ids if (scan := scan_of(scan_id)) is not None]
        credit, modality = (scans[0].place, scans[0].modality) if scans else (file.place, "")
        flags = united(scan.flags for scan in scans if not file.place.task)
        code = file.code.value if file.code is not None else ""
        row = (file.file_id, file.status, code, flags, file.scan_id, file.kind, modality, credit.origin, credit.licence)
        yield dict(zip(INVENTORY, row, strict=True))


def refused_rows(found: Inventory) -> Iterator[Row]:
    """What was refused by its headers, by file and scan id."""
    files, parts = (table.ordered("file_id", "scan_id", status="quarantined") for table in (found.files, found.parts))
    for file in merge(files, parts, key=attrgetter("file_id", "scan_id")):
        yield quarantine_row("index", file.code, file.file_id, file.scan_id, file.place.origin, file.place.licence)


def write_accounts(where: StudyFolder, shards: Sequence[str], files: Iterable[Row], refused: Iterable[Row]) -> None:
    """Writes both tables with what ``preprocess`` refused; neither is touched if it would not change."""
    late = read_late(where, shards)
    scans_of = {row["scan_id"]: row["code"] for row in late if not row["file_id"]}
    labels_of = {row["file_id"]: row["code"] for row in late if row.get("status") == "quarantined"}

    def judged(row: Row) -> Row:
        scans, code = row["scan_id"].split(), None
        if row["status"] == "volume" and scans and all(scan in scans_of for scan in scans):
            code = scans_of[scans[0]]
        elif row["status"] == "companion":
            code = labels_of.get(row["file_id"])
        return row if code is None else row | {"status": "quarantined", "code": code}

    write_rows(where.inventory, INVENTORY, map(judged, files))
    write_rows(where.quarantine, COLUMNS, chain(refused, late))


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """A tab-separated table, rewritten only if it changed."""
    with writing_rows(path, columns) as write:
        for row in rows:
            write(row)


@contextmanager
def writing_rows(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Row], None]]:
    """A function that writes the next row of a tab-separated table, which takes its name at the end, and only if it changed."""
    with replacing(path, unless_same=True) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("\t".join(columns) + "\n")
        yield lambda row: _write(stream, row, columns)


def _write(stream: TextIO, row: Row, columns: Sequence[str]) -> None:
    stream.write("\t".join([row[column] for column in columns]) + "\n")


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
