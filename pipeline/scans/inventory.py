"""Every file of a study accounted for once: part of a volume, a companion (labels, segmentation), no image, or quarantined with a code.

Headers only are read here; voxels are checked when a scan is read whole.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from anatomy.grid import Grid
from pipeline.scans.content import detached_of
from pipeline.scans.dicom.frames import unfolded
from pipeline.scans.dicom.grouping import group
from pipeline.scans.dicom.headers import read_header
from pipeline.scans.dicom.slices import Series, Slice
from pipeline.scans.dicom.stack import grid_of
from pipeline.scans.first import firsts
from pipeline.scans.flags import flags_of
from pipeline.scans.folders.layouts import Layouts, Listed, read_layouts
from pipeline.scans.folders.naming import Named, modality_in, name_of, with_subject
from pipeline.scans.folders.walk import Found, stem_of, walk
from pipeline.scans.identity import Identity
from pipeline.scans.patience import patiently
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.stock import File, Found3D, Inventory, Place

__all__ = ["File", "Found3D", "Inventory", "Place", "take_stock"]

DETACHED = (".img", ".img.gz", ".raw", ".zraw", ".raw.gz")  # voxels of a header file of the same stem


def take_stock(
    places: Sequence[Place], identity: Identity, channels: Sequence[str] = (), tick: Callable[[], None] | None = None
) -> Inventory:
    """Walks the places in order; a file that two of them hold belongs to the first. ``tick`` is called once a file."""
    found = Inventory()
    images: dict[str, File] = {}  # in a folder of labels; a source may hold them too
    for number, place in enumerate(places):
        slices: list[tuple[File, Slice]] = []
        same: dict[Any, Any] = {}
        layouts = Layouts("", ()) if place.task else read_layouts(place.path, channels)
        for item in _new(place, places[:number], images):
            file = File(identity("file", place.anchor, item.relative), item.relative, place, "not_image", item.code, kind=item.kind)
            if tick is not None:
                tick()
            if item.code is not None:
                found.files.append(replace(file, status="quarantined"))
            elif place.task and _is_image(item, place, places):
                images[os.path.abspath(item.path)] = file
            elif place.task:
                found.files.append(replace(file, status="not_image" if item.kind == "other" else "companion"))
            elif item.kind == "dicom":
                _take_slice(file, slices, same, found)
            elif item.kind in ("nifti", "metaimage"):
                _take_volume(file, identity, channels, layouts.of(file.path), found)
            elif os.path.abspath(file.path) in layouts.broken:
                found.files.append(replace(file, status="quarantined", code=Code.DATASET_JSON))
            else:
                found.files.append(file)
        _take_series(slices, identity, found)
        found.files += _missing(layouts, place, identity)
    found.files += images.values()
    _attach_detached(found)
    return found


def _is_image(item: Found, place: Place, places: Sequence[Place]) -> bool:
    """Whether a file in a folder of labels holds none: a DICOM image; where a source lies in there, a volume not named as labels."""
    if item.kind == "dicom":
        try:
            return patiently(read_header, item.path) is not None
        except Refused:
            return True
    if item.kind not in ("nifti", "metaimage") or name_of(item.relative).is_labels:
        return False
    path, own = os.path.abspath(item.path), os.path.join(os.path.abspath(place.path), "")
    sources = [os.path.join(os.path.abspath(other.path), "") for other in places if not other.task]
    return any(source.startswith(own) and path.startswith(source) for source in sources)


def _new(place: Place, before: Sequence[Place], images: dict[str, File]) -> Iterator[Found]:
    """What lies in no place before, and the images that a folder of labels left to a source, which takes them."""
    taken = tuple(os.path.join(os.path.abspath(other.path), "") for other in before)
    for item in walk(place.path):
        path = os.path.abspath(item.path)
        if not taken or not path.startswith(taken) or images.pop(path, None) is not None:
            yield item


def _missing(layouts: Layouts, place: Place, identity: Identity) -> Iterator[File]:
    """What a dataset's JSON names and what is not there."""
    for name in layouts.missing:
        relative = os.path.relpath(name, place.path)
        yield File(identity("file", place.anchor, relative), relative, place, "quarantined", Code.MISSING_FILE)


def _take_slice(file: File, slices: list[tuple[File, Slice]], same: dict[Any, Any], found: Inventory) -> None:
    """``same`` holds what slices of a series have in common once for all of them: half of the memory."""
    try:
        header = patiently(read_header, file.path)
    except Refused as refused:
        found.files.append(replace(file, status="quarantined", code=refused.code))
        return
    if header is None:
        found.files.append(replace(file, status="companion"))
    else:
        key, traits, orientation = (same.setdefault(value, value) for value in (header.key, header.traits, header.orientation))
        slices.append((file, replace(header, key=key, traits=traits, orientation=orientation)))


def _take_series(slices: list[tuple[File, Slice]], identity: Identity, found: Inventory) -> None:
    """Slices by volume; a volume whose geometry is refused takes all its slices with it."""
    files = {str(header.path): file for file, header in slices}
    num_images = Counter(series for series, _ in {(item.series, item.instance or str(item.path)) for _, item in slices})
    parts = group([header for _, header in slices])
    only = firsts(parts) if slices and slices[0][0].place.four_d == "first" else {}
    for series in parts:
        own = [files[str(item.path)] for item in series.slices]
        taken = only.get(series.first.series)
        try:
            volumes = unfolded(series)
        except Refused as refused:
            scan_id = identity("scan", *(str(part) for part in series.first.key))
            found.files += [replace(file, status="quarantined", code=refused.code, scan_id=scan_id) for file in own]
            continue
        scans: list[Found3D] = []
        refusals: list[tuple[str, Code]] = []
        for kind, volume in volumes:
            scan_id = identity("scan", *(str(part) for part in volume.first.key))
            try:
                images = 0 if series.first.is_whole else num_images[series.first.series]
                scan = _series_scan(kind, volume, own, series, scan_id, identity, images)
                scans += [scan] if taken in (None, volume.first.key) else []
            except Refused as refused:
                refusals.append((scan_id, refused.code))
        is_left = len(scans) + len(refusals) < len(volumes)
        _account(own, scans, refusals, found, identity("scan", *(str(part) for part in taken)) if taken and is_left else "")


def _series_scan(kind: str, volume: Series, own: list[File], whole: Series, scan_id: str, identity: Identity, num_images: int) -> Found3D:
    """Raises ``Refused`` where the slices are no regular stack. ``num_images`` as in ``flags_of``."""
    grid, first = grid_of(volume.slices).canonical()[0], volume.first
    patient = first.patient.strip("\x1f ")
    subject = first.patient if patient else f"study\x1f{first.study}"
    parents = {PurePosixPath(file.relative).parent.name for file in own}
    key = (parents.pop() or own[0].place.path.name) if len(parents) == 1 else ""
    place = own[0].place
    return Found3D(
        scan_id, identity("exam", first.study or first.series), identity("subject", subject), patient.split("\x1f")[0] or key, kind,
        first.modality, place.channel or first.modality, key, tuple(item.path for item in whole.slices), grid.spacing_mm, place,
        grid.shape, min((item.date for item in volume.slices if item.date), default=0),
        patiently(flags_of, volume.slices, num_images), series=first.series,
    )  # fmt: skip


def _account(own: list[File], scans: list[Found3D], refusals: list[tuple[str, Code]], found: Inventory, instead: str = "") -> None:
    """Files by the volumes that they hold: quarantined where every one was refused. ``instead``: the scan that is taken of their series,
    where volumes of theirs are left out."""
    found.scans += scans
    if scans:
        found.files += [replace(file, status="volume", scan_id=" ".join(scan.scan_id for scan in scans)) for file in own]
    elif instead:
        found.files += [replace(file, status="left_out", scan_id=instead) for file in own]
    else:
        (scan_id, code), *refusals = refusals
        found.files += [replace(file, status="quarantined", code=code, scan_id=scan_id) for file in own]
    found.parts += [replace(file, status="quarantined", code=code, scan_id=scan_id) for scan_id, code in refusals for file in own]


def _take_volume(file: File, identity: Identity, channels: Sequence[str], listed: Listed | None, found: Inventory) -> None:
    """``listed``: what a dataset's own JSON says of the file, if one does."""
    named = listed.named if listed else name_of(file.relative, channels)
    if named is None or named.is_labels:
        found.files.append(replace(file, status="not_image" if listed and listed.role == "none" else "companion"))
        return
    named = with_subject(named, file.relative, file.place.subject)
    whole = identity("scan", file.place.anchor, file.relative)
    try:
        (numbers, grid), detached = patiently(_volumes_in, file), patiently(detached_of, file.kind, file.path)
    except Refused as refused:
        found.files.append(replace(file, status="quarantined", code=refused.code, scan_id=whole))
        return
    scans = []
    for number in numbers:
        scan_id = whole if number is None else identity("scan", file.place.anchor, file.relative, str(number))
        part = "-".join(str(word) for word in (file.place.placement if file.kind == "nifti" else "", number) if word not in ("", None))
        kind = f"{file.kind}:{part}" if part else file.kind
        if number is not None and listed and number < len(listed.volumes):
            named = replace(named, channel=listed.volumes[number][0], modality=listed.volumes[number][1])
        scans.append(_scan_of(file, named, scan_id, kind, grid, detached, identity))
    _account([file], scans, [], found)


def _scan_of(file: File, named: Named, scan_id: str, kind: str, grid: Grid, detached: tuple[Path, ...], identity: Identity) -> Found3D:
    place = file.place
    modality = named.modality or place.modality or modality_in(stem_of(file.path.name))
    return Found3D(
        scan_id, identity("exam", place.people, named.subject, named.exam), identity("subject", place.people, named.subject), named.subject,
        kind, modality, place.channel or named.channel or modality, named.key, (file.path,), grid.spacing_mm, place, grid.shape,
        detached=detached,
    )  # fmt: skip


def _volumes_in(file: File) -> tuple[Sequence[int | None], Grid]:
    """(numbers of the volumes to take, their canonical grid): the one without a number of a 3-D file, else by the place's policy."""
    if file.kind == "nifti":
        from pipeline.scans.formats.nifti import count_volumes, read_grid

        placed = {"placement": file.place.placement}
    else:
        from pipeline.scans.formats.metaimage import count_volumes, read_grid

        placed = {}
    count = count_volumes(file.path) if file.place.four_d != "refuse" else 1
    grid = read_grid(file.path, count > 1, **placed).canonical()[0]
    return [None] if count == 1 else range(count if file.place.four_d == "split" else 1), grid


def _attach_detached(found: Inventory) -> None:
    """Voxels that lie in a file beside their header belong to its volume; beside a header that is refused, they are known by name."""
    headers = {(file.path.parent, stem_of(file.path.name)): file for file in found.files if file.kind in ("nifti", "metaimage")}
    by_scan = {scan_id: file for file in found.files if file.status == "volume" for scan_id in file.scan_ids}
    owners = {path: by_scan[scan.scan_id] for scan in found.scans for path in scan.detached}
    for number, file in enumerate(found.files):
        name = file.relative.lower()
        ending = next((ending for ending in DETACHED if name.endswith(ending)), None)
        by_name = headers.get((file.path.parent, file.path.name[: -len(ending)])) if ending else None
        owner = owners.get(file.path, by_name) if owners else by_name
        if owner is not None and file.status == "not_image":
            found.files[number] = replace(file, status=owner.status, code=owner.code, scan_id=owner.scan_id)
