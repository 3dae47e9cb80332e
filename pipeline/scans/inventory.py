"""Every file of a study accounted for once: part of a volume, a companion (labels, segmentation), no image, or quarantined with a code.

Headers only are read here; voxels are checked when a scan is read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.files import digest_of
from pipeline.scans import dicom, stack
from pipeline.scans.identity import Identity
from pipeline.scans.naming import Named, name_of
from pipeline.scans.patience import patiently
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.walk import Found, stem_of, walk

DETACHED = (".img", ".img.gz", ".raw", ".zraw", ".raw.gz")  # voxels of a header file of the same stem


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
    cohort: str = ""  # of which names mean the same people in every folder

    @property
    def people(self) -> str:
        """What a subject's name is unique within."""
        return f"cohort\x1f{self.cohort}" if self.cohort else self.anchor


@dataclass(frozen=True)
class File:
    """One file; ``status`` is volume, companion, not_image, quarantined or forgotten."""

    file_id: str
    path: Path
    relative: str
    place: Place
    status: str
    code: Code | None = None
    scan_id: str = ""
    kind: str = "other"


@dataclass(frozen=True)
class Found3D:
    """A scan: which files it is made of, and what their headers and names say of it. ``key`` is what its label file is called."""

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
    detached: tuple[Path, ...] = ()  # the voxels' own file, where ``paths`` is but their header


@dataclass
class Inventory:
    """What stands in the study's folders."""

    files: list[File] = field(default_factory=list)
    scans: list[Found3D] = field(default_factory=list)


def take_stock(
    places: Sequence[Place], identity: Identity, channels: Sequence[str] = (), tick: Callable[[], None] | None = None
) -> Inventory:
    """Walks the places in order; a file that two of them hold belongs to the first. ``tick`` is called once a file."""
    found, seen = Inventory(), set()
    for place in places:
        slices: list[tuple[File, dicom.Slice]] = []
        for item in _new(place, seen):
            file = File(
                identity("file", place.anchor, item.relative), item.path, item.relative, place, "not_image", item.code, kind=item.kind
            )
            if tick is not None:
                tick()
            if item.code is not None:
                found.files.append(replace(file, status="quarantined"))
            elif place.task:
                found.files.append(replace(file, status="companion" if item.kind in ("nifti", "metaimage") else "not_image"))
            elif item.kind == "dicom":
                _take_slice(file, slices, found)
            elif item.kind in ("nifti", "metaimage"):
                _take_volume(file, identity, channels, found)
            else:
                found.files.append(file)
        _take_series(slices, identity, found)
    _attach_detached(found)
    return found


def _new(place: Place, seen: set[Path]) -> Iterator[Found]:
    for item in walk(place.path):
        path = item.path.absolute()
        if path not in seen:
            seen.add(path)
            yield item


def _take_slice(file: File, slices: list[tuple[File, dicom.Slice]], found: Inventory) -> None:
    try:
        header = patiently(dicom.read_header, file.path)
    except Refused as refused:
        found.files.append(replace(file, status="quarantined", code=refused.code))
        return
    if header is None:
        found.files.append(replace(file, status="companion"))
    else:
        slices.append((file, header))


def _take_series(slices: list[tuple[File, dicom.Slice]], identity: Identity, found: Inventory) -> None:
    """Slices by volume; a volume whose geometry is refused takes all its slices with it."""
    files = {str(header.path): file for file, header in slices}
    for series in dicom.group([header for _, header in slices]):
        own = [files[str(item.path)] for item in series.slices]
        first = series.first
        scan_id = identity("scan", *(str(part) for part in first.key))
        try:
            spacing = () if first.enhanced else _series_spacing(series)
        except Refused as refused:
            found.files += [replace(file, status="quarantined", code=refused.code, scan_id=scan_id) for file in own]
            continue
        patient = first.patient.strip("\x1f ")
        subject = first.patient if patient else f"study\x1f{first.study}"
        parents = {PurePosixPath(file.relative).parent.name for file in own}
        key = (parents.pop() or own[0].place.path.name) if len(parents) == 1 else ""
        place = own[0].place
        found.scans.append(Found3D(
            scan_id, identity("exam", first.study or first.series), identity("subject", subject), patient.split("\x1f")[0] or key, "dicom",
            first.modality, place.channel or first.modality, key, tuple(file.path for file in own), spacing, place,
        ))  # fmt: skip
        found.files += [replace(file, status="volume", scan_id=scan_id) for file in own]


def _series_spacing(series: dicom.Series) -> tuple[float, ...]:
    """Along Right, Anterior, Superior; the geometry is checked on the way."""
    slices = stack.ordered(series.slices)
    planes = [stack.Plane(np.asarray(item.position), np.asarray(item.orientation), item.spacing) for item in slices]
    _, affine = stack.along_normal(planes)
    from anatomy.grid import Grid

    rows, columns = slices[0].shape
    return Grid((columns, rows, len(slices)), stack.LPS_TO_RAS @ affine).canonical()[0].spacing_mm


def _take_volume(file: File, identity: Identity, channels: Sequence[str], found: Inventory) -> None:
    named = name_of(file.relative, channels, file.place.subject)
    if named.is_labels:
        found.files.append(replace(file, status="companion"))
        return
    scan_id = identity("scan", file.place.anchor, file.relative)
    try:
        spacing, detached = patiently(_header_of, file)
    except Refused as refused:
        found.files.append(replace(file, status="quarantined", code=refused.code, scan_id=scan_id))
        return
    found.files.append(replace(file, status="volume", scan_id=scan_id))
    found.scans.append(_scan_of(file, named, scan_id, spacing, detached, identity))


def _scan_of(file: File, named: Named, scan_id: str, spacing: tuple[float, ...], detached: tuple[Path, ...], identity: Identity) -> Found3D:
    place = file.place
    modality = named.modality or place.modality
    return Found3D(
        scan_id, identity("exam", place.people, named.subject, named.exam), identity("subject", place.people, named.subject), named.subject,
        file.kind, modality, place.channel or named.channel or modality, named.key, (file.path,), spacing, place, detached,
    )  # fmt: skip


def _header_of(file: File) -> tuple[tuple[float, ...], tuple[Path, ...]]:
    """(spacing along Right, Anterior, Superior; the file of the voxels, if it is another one)."""
    if file.kind == "nifti":
        from pipeline.scans.nifti import detached_of, read_grid
    else:
        from pipeline.scans.metaimage import detached_of, read_grid
    return read_grid(file.path).canonical()[0].spacing_mm, detached_of(file.path)


def _attach_detached(found: Inventory) -> None:
    """Voxels that lie in a file beside their header belong to its volume; beside a header that is refused, they are known by name."""
    headers = {(file.path.parent, stem_of(file.path.name)): file for file in found.files if file.kind in ("nifti", "metaimage")}
    by_scan = {file.scan_id: file for file in found.files if file.status == "volume"}
    owners = {path: by_scan[scan.scan_id] for scan in found.scans for path in scan.detached}
    for number, file in enumerate(found.files):
        name = file.path.name.lower()
        ending = next((ending for ending in DETACHED if name.endswith(ending)), None)
        by_name = headers.get((file.path.parent, file.path.name[: -len(ending)])) if ending else None
        owner = owners.get(file.path, by_name)
        if owner is not None and file.status == "not_image":
            found.files[number] = replace(file, status=owner.status, code=owner.code, scan_id=owner.scan_id)


def content_of(paths: Sequence[Path]) -> str:
    """Digest of the sizes and times of files: a change of any wakes what was made from them."""
    stats = [path.stat() for path in paths]
    return digest_of([[item.st_size, item.st_mtime_ns] for item in stats])
