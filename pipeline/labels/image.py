"""The image that labels were drawn on, as its headers describe it: whose it is, its frame of reference, and where each slice lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.labels.companion import Companion
from pipeline.scans.dicom.elements import read_elements
from pipeline.scans.dicom.frames import unfolded
from pipeline.scans.dicom.geometry import axes
from pipeline.scans.dicom.headers import slice_of
from pipeline.scans.dicom.slices import Series, Slice
from pipeline.scans.quarantine import Code, Refused


@dataclass(frozen=True, eq=False)
class Image:
    """``places``: instance -> number of the frame (0 of an object with one) -> position of its first pixel, LPS mm. ``row``, ``column``,
    ``normal`` are unit vectors, LPS; ``spacing`` is (between rows, between columns); ``step`` the least distance of two slices, mm."""

    series: str
    patient: str
    frame: str
    places: dict[str, dict[int, np.ndarray]]
    row: np.ndarray
    column: np.ndarray
    normal: np.ndarray
    spacing: tuple[float, float]
    shape: tuple[int, int]
    step: float

    def holds(self, cited: Iterable[tuple[str, int]]) -> bool:
        """Whether any of the images cited is one of this volume's slices."""
        return any(self.place(*item) is not None or (item[0] in self.places and item[1] == 0) for item in cited)

    def place(self, instance: str, number: int) -> np.ndarray | None:
        """Position of a slice that is cited; None for one that is not of this volume, or where a whole multi-frame object is meant."""
        frames = self.places.get(instance)
        if frames is None:
            return None
        return frames.get(0) if 0 in frames else frames.get(number)


def read_image(kind: str, paths: Sequence[str | Path]) -> Image:
    """From the headers of a scan's files; ``kind`` as in ``scans.reading``. Raises ``Refused``."""
    found = []
    for path in map(Path, paths):
        values = read_elements(path).values
        item = slice_of(path, values)
        if item is not None:
            found.append((item, values.get("FrameOfReferenceUID", "")))
    if not found:
        raise Refused(Code.TOO_FEW_SLICES)
    frames = {frame for _, frame in found}
    if len(frames) > 1:
        raise Refused(Code.LABELS_FRAME)
    slices, places = _places([item for item, _ in found], kind)
    first = slices[0]
    row, column, normal = axes(np.asarray(first.orientation))
    heights = np.unique(np.round([np.asarray(item.position) @ normal for item in slices], 3))
    step = float(np.diff(heights).min()) if len(heights) > 1 else 0.0
    return Image(first.series, first.patient, frames.pop(), places, row, column, normal, first.spacing, first.shape, step)


def _places(slices: list[Slice], kind: str) -> tuple[list[Slice], dict[str, dict[int, np.ndarray]]]:
    """The slices of a volume, and where each lies by instance and frame."""
    if not slices[0].is_whole:
        return slices, {item.instance: {0: np.asarray(item.position, float)} for item in slices}
    header = slices[0]
    own = dict(unfolded(Series([header]))).get(kind)
    if own is None:
        raise Refused(Code.CHANGED)
    return own.slices, {header.instance: {item.frame + 1: np.asarray(item.position, float) for item in own.slices}}


def check_belongs(companion: Companion, image: Image) -> None:
    """Raises ``Refused`` where labels are of another patient than the image."""
    theirs, ours = companion.patient.split("\x1f"), image.patient.split("\x1f")
    if theirs[0].strip() != ours[0].strip() or (theirs[1].strip() and ours[1].strip() and theirs[1].strip() != ours[1].strip()):
        raise Refused(Code.LABELS_PATIENT)


def check_frame(frame: str, image: Image) -> None:
    """Raises ``Refused`` where a structure lies in another frame of reference than the image. None in either is one and the same, since
    labels are only ever laid on an image that they cite, or on one that shares that image's grid or frame."""
    if frame != image.frame:
        raise Refused(Code.LABELS_FRAME)
