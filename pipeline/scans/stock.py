"""What an inventory is made of: places to look at, files, scans."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.scans.quarantine import Code
from pipeline.scans.spool import Spool, Table, cell

FILE = ("file_id", "relative", "place", "status", "code", "scan_id", "kind")
SCAN = (
    "scan_id", "exam_id", "subject_id", "subject", "kind", "modality", "channel", "key", "first", "behind", "spacing_mm", "place", "shape",
    "date", "flags", "detached", "series",
)  # fmt: skip
SCAN_KEYS = ("scan_id", "exam_id", "series", "key")
SCANS_KEPT = 1000  # in memory, of those that were asked for last


@dataclass(frozen=True)
class Place:
    """A folder to take stock of. ``anchor`` names it in ids, so that it must not change when the folder is moved."""

    path: Path
    anchor: str
    modality: str = ""
    channel: str = ""
    origin: str = ""
    licence: str = ""
    task: str = ""  # of a folder of labels
    subject: str = ""  # pattern that finds the subject in a file's path
    four_d: str = "refuse"  # first, split: which volumes of a 4-D file are scans; of a DICOM series all are but for first
    placement: str = ""  # sform, qform: which of a NIfTI header's places counts where both are coded
    cohort: str = ""  # of which names mean the same people in every folder

    @property
    def people(self) -> str:
        """What a subject's name is unique within."""
        return f"cohort\x1f{self.cohort}" if self.cohort else self.anchor


@dataclass(frozen=True, slots=True)
class File:
    """One file; ``status`` is volume, companion, not_image, left_out (a later volume of the DICOM series of which its source takes the
    first), quarantined or forgotten. Several scans in one file (stacks of an enhanced DICOM object, volumes of a 4-D file) stand in
    ``scan_id`` with spaces between."""

    file_id: str
    relative: str
    place: Place
    status: str
    code: Code | None = None
    scan_id: str = ""
    kind: str = "other"

    @property
    def path(self) -> Path:
        return self.place.path / self.relative

    @property
    def scan_ids(self) -> tuple[str, ...]:
        return tuple(self.scan_id.split())


@dataclass(frozen=True, slots=True)
class Paths(Sequence[Path]):
    """Of files that stand one behind the other in an inventory; read there when asked for, as a scan may have thousands."""

    files: Table[File]
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Path]:
        return (file.path for file in self.files.between(self.numbers))

    def __getitem__(self, at: Any) -> Any:
        return tuple(self)[at] if isinstance(at, slice) else self.files[self.numbers[at]].path


@dataclass(frozen=True)
class Found3D:
    """A scan: which files it is made of, and what their headers and names say of it. ``key`` is what its label file is called; ``kind`` as
    in ``scans.reading``; shape and spacing run along Right, Anterior, Superior."""

    scan_id: str
    exam_id: str
    subject_id: str
    subject: str
    kind: str
    modality: str
    channel: str
    key: str
    paths: Paths
    spacing_mm: tuple[float, ...]
    place: Place
    shape: tuple[int, ...] = ()
    date: int = 0  # of the exam, as an ordinal; 0 where unknown. It goes into no table: see scans.days
    flags: str = ""  # codes of ``scans.flags`` with spaces between
    detached: tuple[Path, ...] = ()  # the voxels' own file, where ``paths`` is but their header
    series: str = ""  # its UID, by which DICOM labels find it; it goes into no table


class Inventory:
    """What stands in the study's folders; it lies on disk, as ``scans.spool`` says. ``parts``: volumes that were refused of a file that is
    accounted for by another of its volumes; each is that file with the code and the scan id. ``left``: DICOM images in a folder of
    labels, until a source takes them; they are found by ``path`` too."""

    def __init__(self) -> None:
        self.spool = Spool()
        self.spool.run("CREATE TABLE places (number INTEGER PRIMARY KEY, folder)")
        self._places: list[Place] = []
        self._numbers: dict[Place, int] = {}
        self.files: Table[File] = Table(self.spool, "files", FILE, self._file_cells, self._file)
        self.parts: Table[File] = Table(self.spool, "parts", FILE, self._file_cells, self._file)
        self.left: Table[File] = Table(
            self.spool, "left_images", ("path", *FILE), lambda file: (os.path.abspath(file.path), *self._file_cells(file)),
            lambda path, *cells: self._file(*cells), ("path",),
        )  # fmt: skip
        self.scans: Table[Found3D] = Table(self.spool, "scans", SCAN, self._scan_cells, self._scan, SCAN_KEYS)

    def files_by_path(self) -> Iterator[tuple[int, File]]:
        """(number, file) in the order of whole paths."""
        return self.files.numbered("(SELECT folder FROM places WHERE places.number = place) || relative")

    def scan(self, scan_id: str) -> Found3D | None:
        """The scan of this id; of several (one series in two sources) the last."""
        return self.scans.last(scan_id=scan_id) if scan_id else None

    def paths(self, number: int) -> Paths:
        """Of the next so many files to be appended."""
        return Paths(self.files, range(self.files.end, self.files.end + number))

    def _number(self, place: Place) -> int:
        if place not in self._numbers:
            self._numbers[place] = len(self._places)
            self._places.append(place)
            folder = f"{place.path.absolute()}".rstrip("/") + "/"
            self.spool.run("INSERT INTO places VALUES (?, ?)", (self._numbers[place], cell(folder)))
        return self._numbers[place]

    def _file_cells(self, file: File) -> tuple[Any, ...]:
        code = file.code.value if file.code is not None else None
        return file.file_id, file.relative, self._number(file.place), file.status, code, file.scan_id, file.kind

    def _file(self, file_id: str, relative: str, place: int, status: str, code: str | None, scan_id: str, kind: str) -> File:
        return File(file_id, relative, self._places[place], status, None if code is None else Code(code), scan_id, kind)

    def _scan_cells(self, scan: Found3D) -> tuple[Any, ...]:
        numbers, detached = scan.paths.numbers, "\0".join(map(str, scan.detached))
        return (
            scan.scan_id, scan.exam_id, scan.subject_id, scan.subject, scan.kind, scan.modality, scan.channel, scan.key, numbers.start,
            numbers.stop, json.dumps(scan.spacing_mm), self._number(scan.place), json.dumps(scan.shape), scan.date, scan.flags, detached,
            scan.series,
        )  # fmt: skip

    def _scan(self, *cells: Any) -> Found3D:
        *names, first, behind, spacing, place, shape, date, flags, detached, series = cells
        return Found3D(
            *names, Paths(self.files, range(first, behind)), tuple(json.loads(spacing)), self._places[place], tuple(json.loads(shape)),
            date, flags, tuple(map(Path, detached.split("\0"))) if detached else (), series,
        )  # fmt: skip
