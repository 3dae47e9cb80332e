"""What structures are called, in one private file: ``segments.tsv`` beside the crosswalk, mode 0600. Names are free text of the user's and
stand nowhere else.

file_id; path; task; number and name of the segment or region; codes (SCHEME:VALUE, spaces between); value (label value of the class that
takes it, 0 if it is left out, empty if nothing names it); skipped (contours that enclose nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.folder import StudyFolder
from pipeline.labels.companion import Companion, Structure
from pipeline.labels.rule import Rule
from pipeline.scans.accounts import private_rows
from pipeline.scans.identity import study_private
from pipeline.scans.quarantine import Refused

COLUMNS = ("file_id", "path", "task", "number", "name", "codes", "value", "skipped")


@dataclass(frozen=True)
class Named:
    """A structure of a file, as a task sees it."""

    file_id: str
    path: Path
    task: str
    structure: Structure
    value: str


def named(file_id: str, path: Path, task: str, companion: Companion, rule: Rule) -> list[Named]:
    """Every structure of an object."""
    return [Named(file_id, path, task, item, _told(rule, item)) for item in companion.structures]


def names_path(where: StudyFolder) -> Path:
    return study_private(where) / "segments.tsv"


def write_names(where: StudyFolder, found: Sequence[Named]) -> None:
    """Replaces the file; without any structure there is none."""
    path = names_path(where)
    if not found:
        path.unlink(missing_ok=True)
        return
    rows = [
        (item.file_id, str(item.path.absolute()), item.task, str(item.structure.number), item.structure.name,
         " ".join(item.structure.codes), item.value, str(item.structure.skipped))
        for item in sorted(found, key=lambda item: (item.task, str(item.path), item.structure.number))
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    private_rows(path, COLUMNS, [dict(zip(COLUMNS, row, strict=True)) for row in rows])


def forget_names(where: StudyFolder, file_ids: set[str]) -> None:
    """Takes the structures of these files out."""
    path = names_path(where)
    if path.exists():
        header, *lines = path.read_text().splitlines()
        kept = [line for line in lines if line.partition("\t")[0] not in file_ids]
        private_rows(path, header.split("\t"), [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in kept])


def _told(rule: Rule, structure: Structure) -> str:
    try:
        value = rule.value_of(structure)
    except Refused:
        return "several"
    return "" if value is None else str(value)
