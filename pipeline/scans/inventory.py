"""Every file of a study accounted for once: part of a volume, a companion (labels, segmentation), no image, or quarantined with a code.

Headers only are read here; voxels are checked when a scan is read whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from anatomy.grid import Grid
from pipeline.scans.content import detached_of
from pipeline.scans.dicom.frames import unfolded
from pipeline.scans.dicom.grouping import group
from pipeline.scans.dicom.headers import read_header
from pipeline.scans.dicom.slices import Series, Slice
from pipeline.scans.dicom.stack import grid_of
from pipeline.scans.first import first_of
from pipeline.scans.flags import flags_of
from pipeline.scans.folders.layouts import Layouts, Listed, read_layouts
from pipeline.scans.folders.naming import Named, modality_in, name_of, with_subject
from pipeline.scans.folders.walk import Found, stem_of, walk
from pipeline.scans.identity import Identity
from pipeline.scans.patience import patiently
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.series import Slices
from pipeline.scans.stock import File, Found3D, Inventory, Place

__all__ = ["File", "Found3D", "Inventory", "Place", "take_stock"]

DETACHED = (".img", ".img.gz", ".raw", ".zraw", ".raw.gz")  # voxels of a header file of the same stem


def take_stock(
    places: Sequence[Place], identity: Identity, channels: Sequence[str] = (), tick: Callable[[], None] | None = None
) -> Inventory:
    """Walks the places in order; a file that two of them hold belongs to the first. ``tick`` is called once a file."""
    found = Inventory()
    for number, place in enumerate(places):
        slices = Slices(place)
        layouts = Layouts("", ()) if place.task else read_layouts(place.path, channels)
        for item in _new(place, places[:number], found):
            file = File(identity("file", place.anchor, item.relative), item.relative, place, "not_image", item.code, kind=item.kind)
            if tick is not None:
                tick()
            if item.code is not None:
                found.files.append(replace(file, status="quarantined"))
            elif place.task and _is_image(item, place, places):
                found.left.append(file)
            elif place.task:
                found.files.append(replace(file, status="not_image" if item.kind == "other" else "companion"))
            elif item.kind == "dicom":
                _take_slice(file, slices, found)
            elif item.kind in ("nifti", "metaimage"):
                _take_volume(file, identity, channels, layouts.of(file.path), found)
            elif os.path.abspath(file.path) in layouts.broken:
                found.files.append(replace(file, status="quarantined", code=Code.DATASET_JSON))
            else:
                found.files.append(file)
        for series in slices.by_series():
            _take_series(series, identity, found)
        found.files.extend(_missing(layouts, place, identity))
    found.files.extend(found.left)
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


def _new(place: Place, before: Sequence[Place], found: Inventory) -> Iterator[Found]:
    """What lies in no place before, and the images that a folder of labels left to a source, which takes them."""
    taken = tuple(os.path.join(os.path.abspath(other.path), "") for other in before)
    for item in walk(place.path):
        path = os.path.abspath(item.path)
        if not taken or not path.startswith(taken) or found.left.remove(path=path):
            yield item


def _missing(layouts: Layouts, place: Place, identity: Identity) -> Iterator[File]:
    """What a dataset's JSON names and what is not there."""
    for name in layouts.missing:
        relative = os.path.relpath(name, place.path)
        yield File(identity("file", place.anchor, relative), relative, place, "quarantined", Code.MISSING_FILE)


def _take_slice(file: File, slices: Slices, found: Inventory) -> None:
    try:
        header = patiently(read_header, file.path)
    except Refused as refused:
        found.files.append(replace(file, status="quarantined", code=refused.code))
        return
    if header is None:
        found.files.append(replace(file, status="companion"))
    else:
        slices.add(file, header)


def _take_series(slices: list[tuple[File, Slice]], identity: Identity, found: Inventory) -> None:
    """The slices of a series by volume; a volume whose geometry is refused takes all its slices with it."""
    files = {str(header.path): file for file, header in slices}
    num_images = len({header.instance or str(header.path) for _, header in slices})
    parts = group([header for _, header in slices])
    taken = first_of(parts) if slices[0][0].place.four_d == "first" else None
    for series in parts:
        own = [files[str(item.path)] for item in series.slices]
        try:
            volumes = unfolded(series)
        except Refused as refused:
            scan_id = identity("scan", *(str(part) for part in series.first.key))
            found.files.extend(replace(file, status="quarantined", code=refused.code, scan_id=scan_id) for file in own)
            continue
        scans: list[Found3D] = []
        refusals: list[tuple[str, Code]] = []
        for kind, volume in volumes:
            scan_id = identity("scan", *(str(part) for part in volume.first.key))
            try:
                images = 0 if series.first.is_whole else num_images
                scan = _series_scan(kind, volume, own, found, scan_id, identity, images)
                scans += [scan] if taken in (None, volume.first.key) else []
            except Refused as refused:
                refusals.append((scan_id, refused.code))
        is_left = len(scans) + len(refusals) < len(volumes)
        _account(own, scans, refusals, found, identity("scan", *(str(part) for part in taken)) if taken and is_left else "")


def _series_scan(
    kind: str, volume: Series, own: list[File], found: Inventory, scan_id: str, identity: Identity, num_images: int
) -> Found3D:
    """Of files that are about to join what was found; raises ``Refused`` where the slices are no regular stack. ``num_images`` as in
    ``flags_of``."""
    grid, first = grid_of(volume.slices).canonical()[0], volume.first
    patient = first.patient.strip("\x1f ")
    subject = first.patient if patient else f"study\x1f{first.study}"
    parents = {PurePosixPath(file.relative).parent.name for file in own}
    key = (parents.pop() or own[0].place.path.name) if len(parents) == 1 else ""
    place = own[0].place
    return Found3D(
        scan_id, identity("exam", first.study or first.series), identity("subject", subject), patient.split("\x1f")[0] or key, kind,
        first.modality, place.channel or first.modality, key, found.paths(len(own)), grid.spacing_mm, place,
        grid.shape, min((item.date for item in volume.slices if item.date), default=0),
        patiently(flags_of, volume.slices, num_images), series=first.series,
    )  # fmt: skip


def _account(own: list[File], scans: list[Found3D], refusals: list[tuple[str, Code]], found: Inventory, instead: str = "") -> None:
    """Files by the volumes that they hold: quarantined where every one was refused. ``instead``: the scan that is taken of their series,
    where volumes of theirs are left out."""
    found.scans.extend(scans)
    if scans:
        scan_ids = " ".join(scan.scan_id for scan in scans)
        found.files.extend(replace(file, status="volume", scan_id=scan_ids) for file in own)
    elif instead:
        found.files.extend(replace(file, status="left_out", scan_id=instead) for file in own)
    else:
        (scan_id, code), *refusals = refusals
        found.files.extend(replace(file, status="quarantined", code=code, scan_id=scan_id) for file in own)
    found.parts.extend(replace(file, status="quarantined", code=code, scan_id=scan_id) for scan_id, code in refusals for file in own)


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
        scans.append(_scan_of(file, named, scan_id, kind, grid, detached, identity, found))
    _account([file], scans, [], found)


def _scan_of(
    file: File, named: Named, scan_id: str, kind: str, grid: Grid, detached: tuple[Path, ...], identity: Identity, found: Inventory
) -> Found3D:
    """Of a file that is about to join what was found."""
    place = file.place
    modality = named.modality or place.modality or modality_in(stem_of(file.path.name))
    return Found3D(
        scan_id, identity("exam", place.people, named.subject, named.exam), identity("subject", place.people, named.subject), named.subject,
        kind, modality, place.channel or named.channel or modality, named.key, found.paths(1), grid.spacing_mm, place, grid.shape,
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
    """Voxels that lie in a file beside their header belong to its volume; beside a header that is refused, they are known by name. What
    is held here are the names of such files."""
    owners = {path: scan.scan_id for scan in found.scans for path in scan.detached}
    stems = {stem for file in found.files.where(status="not_image") if (stem := _detached_stem(file))}
    if not owners and not stems:
        return
    headers, by_scan, wanted = {}, {}, set(owners.values())
    for file in found.files.where(kind=("nifti", "metaimage")):
        stem = (file.path.parent, stem_of(file.path.name))
        if stem in stems:
            headers[stem] = file
        if file.status == "volume":
            by_scan.update((scan_id, file) for scan_id in file.scan_ids if scan_id in wanted)
    for number, file in found.files.numbered(status="not_image"):
        owner = by_scan.get(owners.get(file.path, "")) or headers.get(_detached_stem(file))
        if owner is not None:
            found.files[number] = replace(file, status=owner.status, code=owner.code, scan_id=owner.scan_id)


def _detached_stem(file: File) -> tuple[Path, str] | None:
    """(folder, name without its ending) of a file that is named like voxels of a header file."""
    name = file.path.name
    ending = next((ending for ending in DETACHED if name.lower().endswith(ending)), None)
    return (file.path.parent, name[: -len(ending)]) if ending else None
