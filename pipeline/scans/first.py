"""Of a DICOM series that holds several volumes only the first, where its source asks for that (``four_d: first``)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipeline.scans.dicom.slices import Series
from pipeline.scans.stock import Found3D

When = tuple[float, ...]


def when(volume: Series) -> When:
    """What volumes of a series are ordered by: the least instance number, acquisition time and trigger time; what is unknown comes last."""
    clocks = zip(*(item.clocks for item in volume.slices), strict=True)
    return tuple(min((time for time in clock if time is not None), default=math.inf) for clock in clocks)


def firsts(scans: Iterable[tuple[Found3D, When]]) -> dict[str, str]:
    """series -> id of the volume to take. Of volumes that began at once, the one that stands first."""
    found: dict[str, tuple[When, str]] = {}
    for scan, begun in scans:
        if scan.series not in found or begun < found[scan.series][0]:
            found[scan.series] = (begun, scan.scan_id)
    return {series: scan_id for series, (_, scan_id) in found.items()}
