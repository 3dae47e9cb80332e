"""Which scan a label volume belongs to: see ``folders.belonging``. Segmentations and structure sets say themselves which image they were
drawn on: see ``labels.matching``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from pipeline.scans.content import HEADERS, with_voxels
from pipeline.scans.folders.belonging import Images
from pipeline.scans.inventory import Found3D, Inventory
from pipeline.scans.quarantine import Code

VOLUMES = ("nifti", "metaimage")


def match_labels(found: Inventory, channels: Sequence[str] = (), but: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """scan_id -> {task: file_id}, and sets the label files' scan ids; what matches no scan is quarantined. Tasks in ``but`` are left out.

    Several scans of one name are channels of one exam: the first channel owns the labels. Otherwise nothing says whose they are.
    """
    images: Images[int] | None = None  # numbers of scans, by what their labels may be called; of a study without such labels none
    owners: dict[str, dict[str, str]] = defaultdict(dict)
    for number, file in found.files.numbered(status="companion"):
        if not file.place.task or file.place.task in but or file.kind not in VOLUMES:
            continue
        code = None
        if images is None:
            images = images_of(found, channels)
        called = [found.scans[scan_number] for scan_number in images.called(file.relative)]
        owner = owner_of(called, channels)
        if owner is None:
            code = Code.LABELS_AMBIGUOUS if called else Code.LABELS_WITHOUT_IMAGE
        elif file.place.task in owners[owner.scan_id]:
            code = Code.LABELS_AMBIGUOUS
        if code is not None:
            found.files[number] = replace(file, status="quarantined", code=code)
            continue
        owners[owner.scan_id][file.place.task] = file.file_id
        found.files[number] = replace(file, scan_id=owner.scan_id)
    return {scan: tasks for scan, tasks in owners.items() if tasks}


def take_voxels_along(found: Inventory) -> None:
    """Voxels that lie in a file beside the header of a label volume go where that goes."""
    headers = {}
    for file in found.files.where(kind=VOLUMES):
        if file.place.task and file.path.suffix.lower() in HEADERS:
            headers |= {path: file for path in with_voxels(file.path)[1:]}
    for number, file in found.files.numbered(kind="other") if headers else ():
        if (owner := headers.get(file.path)) is not None:
            found.files[number] = replace(file, status=owner.status, code=owner.code, scan_id=owner.scan_id)


def images_of(found: Inventory, channels: Sequence[str]) -> Images[int]:
    """Numbers of scans, by what their label volumes may be called."""
    return Images(((number, _relative(scan), scan.key) for number, scan in found.scans.numbered()), channels)


def _relative(scan: Found3D) -> str:
    """Below the scan's source: of its file, or of the folder of its series, which is called like its labels."""
    path = PurePosixPath(scan.paths[0].relative_to(scan.place.path))
    return (path.parent if scan.series else path).as_posix()


def owner_of(scans: list[Found3D], channels: Sequence[str]) -> Found3D | None:
    """The one scan, or the first channel of one exam; None where nothing says whose labels are."""
    if len(scans) < 2:
        return scans[0] if scans else None
    if channels and len({scan.exam_id for scan in scans}) == 1:
        ordered = sorted(scans, key=lambda scan: channels.index(scan.channel) if scan.channel in channels else len(channels))
        return ordered[0]
    return None
