"""What a DICOM file's header says of the slice in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.scans.dicom.geometry import Plane


@dataclass(frozen=True, slots=True)
class Slice:
    """``position`` and ``orientation`` are in DICOM's LPS millimetres. ``key`` names the volume; ``traits`` are what may separate volumes
    that share a key; ``clocks`` are instance number, acquisition time in s and trigger time in ms, None where unknown. ``frame`` is the
    place of its pixels in a multi-frame object or a mosaic; ``date`` is that of the exam as an ordinal, 0 where unknown;
    ``acquired`` is how many images the acquisition had, 0 where unknown; ``inverted``: to be shown so (MONOCHROME1); ``suv``: equal where
    all is equal that the SUV of a PET depends on, "" where that is not known."""

    path: Path
    modality: str
    series: str
    study: str
    patient: str
    instance: str
    key: tuple[Any, ...]
    position: tuple[float, float, float] | None
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    shape: tuple[int, int]
    enhanced: bool = False
    mosaic: bool = False
    traits: tuple[Any, ...] = ()
    clocks: tuple[float | None, ...] = ()
    frame: int = 0
    date: int = 0
    acquired: int = 0
    inverted: bool = False
    suv: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether the file holds all of its volume."""
        return self.enhanced or self.mosaic

    @property
    def plane(self) -> Plane:
        return Plane(np.asarray(self.position), np.asarray(self.orientation), self.spacing)


@dataclass
class Series:
    """The slices of one volume to be."""

    slices: list[Slice] = field(default_factory=list)

    @property
    def first(self) -> Slice:
        return self.slices[0]
