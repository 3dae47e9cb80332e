"""DICOM structure sets (PS3.3 A.19, C.8.8.6): closed planar contours filled on the slices of an image.

A voxel belongs to a region where its centre is inside an odd number of the region's contours in its slice: nested contours are holes, the
channel of a keyhole has no width. A contour must lie in a plane along the image's slices; on the image that it was drawn on, in a slice.
Nothing is interpolated. Contours that enclose nothing (points, open lines) are left out, and counted in ``companion.Structure``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.labels.companion import CLOSED, OPEN, Companion, images_of, items
from pipeline.labels.image import Image, check_frame
from pipeline.labels.placing import TIE, regular_step
from pipeline.labels.polygons import cross, filled
from pipeline.scans.dicom.geometry import LPS_TO_RAS
from pipeline.scans.quarantine import Code, Refused

MAX_POINTS = 10_000_000
MAX_MM = 1e5
NUMBERS = frozenset(b"0123456789+-.eE \\\0")
IN_SLICE = 0.1  # of the distance of slices: how far a point may be off its plane, and a plane off its slice
NEAR_MM = 0.01


@dataclass(frozen=True, eq=False)
class Contour:
    """``points`` (n, 3) LPS mm; ``cited`` the images that it says it was drawn on."""

    points: np.ndarray
    cited: tuple[tuple[str, int], ...]


class StructureSet:
    """One object, with the contours of the regions that are wanted. Raises ``Refused``."""

    def __init__(self, dataset: Any, companion: Companion, image: Image, wanted: set[int]) -> None:
        self.companion, self.image = companion, image
        self.is_own = not companion.series or image.series in companion.series
        self.contours: dict[int, list[Contour]] = defaultdict(list)
        known, points = {item.number for item in companion.structures}, 0
        for region in items(dataset, "ROIContourSequence"):
            number = int(region.ReferencedROINumber)
            if number not in known:
                raise Refused(Code.LABELS_NUMBERS)
            if number not in wanted:
                continue
            check_frame(companion.frames(number), image)
            for item in items(region, "ContourSequence"):
                if _is_closed(item):
                    contour = Contour(_points(item), tuple(images_of(items(item, "ContourImageSequence"))))
                    points += len(contour.points)
                    if points > MAX_POINTS:
                        raise Refused(Code.TOO_LARGE)
                    if len(contour.points) > 2:
                        self.contours[number].append(contour)

    def lay(self, numbers: list[int], grid: Grid, out: np.ndarray) -> None:
        """Sets ``out`` (grid.shape, bool) where one of these regions is."""
        axis = int(np.abs(grid.directions.T @ (LPS_TO_RAS[:3, :3] @ self.image.normal)).argmax())
        for number in numbers:
            contours = self.contours.get(number, [])
            if contours:
                self._check_cited(contours)
                self._fill(contours, grid, axis, out)

    def _check_cited(self, contours: list[Contour]) -> None:
        """A contour lies at the slice that it cites."""
        for contour in contours:
            place = self.image.place(*contour.cited[0]) if len(contour.cited) == 1 else None
            if place is not None and np.abs((contour.points - place) @ self.image.normal).max() > self.image.step / 2 + NEAR_MM:
                raise Refused(Code.LABELS_MISPLACED)

    def _fill(self, contours: list[Contour], grid: Grid, axis: int, out: np.ndarray) -> None:
        places = [grid.index(contour.points @ LPS_TO_RAS[:3, :3].T) for contour in contours]
        if any(np.ptp(place[:, axis]) > IN_SLICE for place in places):
            raise Refused(Code.LABELS_NOT_PLANAR)
        heights = np.array([place[:, axis].mean() for place in places])
        by_plane: dict[float, list[np.ndarray]] = defaultdict(list)
        for place, height in zip(places, _planes(heights), strict=True):
            by_plane[height].append(np.delete(place, axis, axis=1))
        step = self._step(np.array(sorted(by_plane)))
        for height, outlines in sorted(by_plane.items()):
            first, last = np.ceil(height - step / 2 - TIE), np.ceil(height + step / 2 - TIE)
            plane = np.moveaxis(out, axis, 0)
            _check_inside(outlines, (first, last - 1), plane.shape)
            _check_repeats(outlines)
            if cross(outlines, plane.shape[1:]):
                raise Refused(Code.LABELS_CROSSING)
            plane[int(max(0, first)) : int(min(len(plane), last))] |= filled(outlines, plane.shape[1:])

    def _step(self, heights: np.ndarray) -> float:
        """How many of the image's slices a plane of contours stands for: one where they were drawn on this image."""
        if self.is_own:
            if np.abs(heights - np.round(heights)).max() > IN_SLICE or (len(heights) > 2 and np.diff(heights).min() > 1.5):
                raise Refused(Code.LABELS_BETWEEN_SLICES)
            return 1.0
        if len(heights) < 2:
            raise Refused(Code.LABELS_BETWEEN_SLICES)
        return regular_step(heights, 0.0)


def _is_closed(item: Any) -> bool:
    """Whether a contour encloses something; raises ``Refused`` for one that does not say so."""
    kind = str(item.get("ContourGeometricType", ""))
    if kind not in CLOSED + OPEN:
        raise Refused(Code.LABELS_CONTOUR)
    return kind in CLOSED


def _points(item: Any) -> np.ndarray:
    """(n, 3) of a contour; raises ``Refused`` for what is no list of so many places."""
    element = item.get_item("ContourData")
    raw = None if element is None else element.value
    if isinstance(raw, bytes):
        if not NUMBERS.issuperset(raw):
            raise Refused(Code.LABELS_CONTOUR)
        raw = raw.strip(b" \0").split(b"\\")
    try:
        found = np.array([float(number) for number in raw or ()])
    except (TypeError, ValueError):
        raise Refused(Code.LABELS_CONTOUR) from None
    count = item.get("NumberOfContourPoints")
    if not len(found) or len(found) % 3 or (count is not None and int(count) * 3 != len(found)):
        raise Refused(Code.LABELS_CONTOUR)
    if not np.isfinite(found).all() or np.abs(found).max() > MAX_MM:
        raise Refused(Code.LABELS_CONTOUR)
    return found.reshape(-1, 3)


def _planes(heights: np.ndarray) -> np.ndarray:
    """The height of the plane that each contour lies in: those within a tenth of a slice of each other share one."""
    order = np.argsort(heights, kind="stable")
    groups = np.cumsum(np.r_[0, np.diff(heights[order]) > IN_SLICE])
    means = np.bincount(groups, heights[order]) / np.bincount(groups)
    out = np.empty(len(heights))
    out[order] = means[groups]
    return out


def _check_inside(outlines: list[np.ndarray], slices: tuple[float, float], shape: tuple[int, ...]) -> None:
    """Contours within the image's outer faces, by half a voxel."""
    low = np.min([outline.min(axis=0) for outline in outlines], axis=0)
    high = np.max([outline.max(axis=0) for outline in outlines], axis=0)
    beyond = slices[1] < 0 or slices[0] > shape[0] - 1
    if beyond or low.min() < -1 or (high > np.asarray(shape[1:])).any():
        raise Refused(Code.LABELS_OUTSIDE)


def _check_repeats(outlines: list[np.ndarray]) -> None:
    found = {np.round(outline, 3).tobytes() for outline in outlines}
    if len(found) < len(outlines):
        raise Refused(Code.LABELS_REPEATED)
