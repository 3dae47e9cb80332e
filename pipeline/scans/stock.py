"""What an inventory is made of: places to look at, files, scans."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.scans.quarantine import Code


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
    first), quarantined or forgotten. Several scans in one file (stacks of an enhanced
    DICOM object, volumes of a 4-D file) stand in ``scan_id`` with spaces between."""

    file_id: str
    relative: str
    place: Place
    status: str
    code: Code | None = None
    scan_id: str = ""
    kind: str = "other"

    @property
    def path(self) -> Path:
        """Made when asked for: a million files take less memory without."""
        return self.place.path / self.relative

    @property
    def scan_ids(self) -> tuple[str, ...]:
        return tuple(self.scan_id.split())


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
    paths: tuple[Path, ...]
    spacing_mm: tuple[float, ...]
    place: Place
    shape: tuple[int, ...] = ()
    date: int = 0  # of the exam, as an ordinal; 0 where unknown. It stays in memory: see scans.days
    flags: str = ""  # codes of ``scans.flags`` with spaces between
    detached: tuple[Path, ...] = ()  # the voxels' own file, where ``paths`` is but their header
    series: str = ""  # its UID, by which DICOM labels find it; it stays in memory


@dataclass
class Inventory:
    """What stands in the study's folders. ``parts``: volumes that were refused of a file that is accounted for by another of its volumes;
    each is that file with the code and the scan id."""

    files: list[File] = field(default_factory=list)
    scans: list[Found3D] = field(default_factory=list)
    parts: list[File] = field(default_factory=list)
