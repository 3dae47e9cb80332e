"""What became of a folder of files: volumes that were accepted, and reason codes."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.scans.dicom.frames import unfolded
from pipeline.scans.dicom.grouping import group
from pipeline.scans.dicom.headers import read_header
from pipeline.scans.identity import Identity
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.quarantine import Refused
from pipeline.scans.reading import Limits, read_scan
from pipeline.volumes.volume import Volume

QUICK = Limits(memory_mb=1000, processor_s=5, clock_s=5.0)


@dataclass
class Outcome:
    """``files``: slices a volume."""

    volumes: list[Volume] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)


def read_folder(folder: Path) -> Outcome:
    """All DICOM files of a folder, as ``index`` and ``preprocess`` read them."""
    found, slices = Outcome(), []
    for path in sorted(folder.iterdir()):
        try:
            header = read_header(path)
        except Refused as refused:
            found.codes.add(refused.code.value)
        else:
            slices += [header] if header is not None else []
    for series in group(slices):
        try:
            kinds = [kind for kind, _ in unfolded(series)]
        except Refused as refused:
            found.codes.add(refused.code.value)
            continue
        for kind in kinds:
            try:
                found.volumes.append(read_scan(kind, [item.path for item in series.slices], QUICK))
                found.files.append(len(series.slices))
            except Refused as refused:
                found.codes.add(refused.code.value)
    return found


def read_file(kind: str, path: Path) -> Outcome:
    """One NIfTI, NRRD or MetaImage file."""
    found = Outcome()
    try:
        found.volumes.append(read_scan(kind, [path], QUICK))
        found.files.append(1)
    except Refused as refused:
        found.codes.add(refused.code.value)
    return found


def read_tree(folder: Path, **policy: str) -> Outcome:
    """All files of a folder, as ``index`` takes stock of them and ``preprocess`` reads scans. A file that is no image adds nothing.
    ``policy``: that of a ``Place``."""
    found = Outcome()
    stock = take_stock([Place(folder, "scans", **policy)], Identity(bytes(32)))
    found.codes |= {file.code.value for file in stock.files if file.code is not None}
    for scan in stock.scans:
        try:
            found.volumes.append(read_scan(scan.kind, scan.paths, QUICK))
            found.files.append(len(scan.paths))
        except Refused as refused:
            found.codes.add(refused.code.value)
    return found
