"""Of a DICOM series that holds several volumes only the first, where its source asks for that (``four_d: first``)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.scans.dicom.frames import unfolded
from pipeline.scans.dicom.slices import Series
from pipeline.scans.dicom.stack import grid_of
from pipeline.scans.quarantine import Refused


def first_of(parts: Iterable[Series]) -> tuple[Any, ...] | None:
    """Key of the volume to take of a series: of those that are regular stacks the one that began first, or stands first."""
    volumes = [volume for part in parts for volume in _regular(part)]
    return min(volumes, key=_begun).first.key if volumes else None


def _regular(part: Series) -> Iterator[Series]:
    try:
        volumes = unfolded(part)
    except Refused:
        return
    for _, volume in volumes:
        try:
            grid_of(volume.slices)
        except Refused:
            continue
        yield volume


def _begun(volume: Series) -> tuple[float, ...]:
    """The least instance number, acquisition time and trigger time; what is unknown comes last."""
    clocks = zip(*(item.clocks for item in volume.slices), strict=True)
    return tuple(min((time for time in clock if time is not None), default=math.inf) for clock in clocks)
