"""DICOM segmentations (PS3.3 A.51, C.8.20): frames in any order, some of them missing, on the image's grid or on one of their own.

Binary, fractional (by a threshold that the task states) and label map segmentations. The order of frames and the dimension indices mean
nothing here: a frame belongs to the segment that it names and lies where its plane says. Where a frame cites one slice of the image it must
lie at that slice, and pixels of the image's own matrix must lie on the image's own pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.labels.companion import LABEL_MAP, Companion, items, sources_of
from pipeline.labels.image import Image, check_frame
from pipeline.labels.placing import Planes, lay, regular_step
from pipeline.scans.dicom import objects
from pipeline.scans.dicom.frames import functional, plane_of, shared_of
from pipeline.scans.dicom.geometry import MAX_TURN, axes
from pipeline.scans.quarantine import Code, Refused

MAX_FRAMES = 100_000
MAX_BITS = 1 << 33
MAX_SIDE = 4096
NEAR_MM = 0.01
NEAR_PIXEL = 0.1
PARALLEL = 1e-3  # sine of the angle between axes that are taken for parallel


class Segmentation:
    """One object, checked against the image that it belongs to. Raises ``Refused``."""

    def __init__(self, dataset: Any, companion: Companion, image: Image, threshold: float | None) -> None:
        self.companion = companion
        check_frame(companion.frame, image)
        if dataset.get("TotalPixelMatrixRows") or str(dataset.get("DimensionOrganizationType", "")).startswith("TILED"):
            raise Refused(Code.LABELS_TILED)
        self.is_map = companion.sop_class == LABEL_MAP
        self.shape = _shape(dataset)
        groups, shared = items(dataset, "PerFrameFunctionalGroupsSequence"), shared_of(dataset)
        if len(groups) != self.shape[0]:
            raise Refused(Code.MULTI_FRAME)
        planes = [plane_of(own, shared) for own in groups]
        if any(np.abs(plane.orientation - planes[0].orientation).max() > MAX_TURN for plane in planes):
            raise Refused(Code.MIXED_SHAPE)
        if any(not np.allclose(plane.spacing, planes[0].spacing, rtol=1e-4) for plane in planes):
            raise Refused(Code.MIXED_SHAPE)
        self.row, self.column, self.normal = axes(planes[0].orientation)
        self.spacing, self.origins = planes[0].spacing, np.stack([plane.position for plane in planes])
        self.step = regular_step(self.origins @ self.normal, self._said(groups[0], shared, image))
        self.segments = np.zeros(len(groups), np.int64) if self.is_map else self._segments(groups, shared)
        self._check_places([sources_of(own) for own in groups], image)
        self.pixels = self._loaded(dataset, threshold)

    def lay(self, numbers: list[int], grid: Grid, out: np.ndarray) -> None:
        """Sets ``out`` (grid.shape, bool) where one of these segments is."""
        for number in numbers:
            frames = np.arange(len(self.segments)) if self.is_map else np.flatnonzero(self.segments == number)
            if not len(frames):
                continue
            heights = np.sort(self.origins[frames] @ self.normal)
            if len(heights) > 1 and np.diff(heights).min() < 0.5 * self.step:
                raise Refused(Code.LABELS_REPEATED)
            pixels = self.pixels(frames, number)
            lay(Planes(self.row, self.column, self.normal, self.origins[frames], self.spacing, self.step, pixels), grid, out)

    def _said(self, own: Any, shared: Any, image: Image) -> float:
        """The step that the object states; without one that of the image, if the planes lie on its slices; else 0, or of a single plane its
        thickness."""
        said = _positive(functional(own, shared, "PixelMeasuresSequence", "SpacingBetweenSlices"))
        if said:
            return said
        heights = self.origins @ self.normal
        if image.step and np.linalg.norm(np.cross(self.normal, image.normal)) < PARALLEL:
            away = (heights - next(iter(next(iter(image.places.values())).values())) @ self.normal) / image.step
            if np.abs(away - np.round(away)).max() < NEAR_PIXEL:
                return image.step
        return _positive(functional(own, shared, "PixelMeasuresSequence", "SliceThickness")) if np.ptp(heights) < NEAR_MM else 0.0

    def _segments(self, groups: list[Any], shared: Any) -> np.ndarray:
        """The number of each frame's segment."""
        known = {item.number for item in self.companion.structures}
        found = [functional(own, shared, "SegmentIdentificationSequence", "ReferencedSegmentNumber") for own in groups]
        if any(number is None or int(number) not in known for number in found):
            raise Refused(Code.LABELS_NUMBERS)
        return np.array([int(number) for number in found])

    def _check_places(self, sources: list[list[tuple[str, int]]], image: Image) -> None:
        if np.linalg.norm(np.cross(self.normal, image.normal)) > PARALLEL or not image.step:
            return
        for origin, cited in zip(self.origins, sources, strict=True):
            own = image.place(*cited[0]) if len(cited) == 1 else None
            if own is not None and abs((origin - own) @ image.normal) > image.step / 2 + NEAR_MM:
                raise Refused(Code.LABELS_MISPLACED)
        same_matrix = self.shape[1:] == image.shape and np.allclose(self.spacing, image.spacing, rtol=1e-3)
        if same_matrix and np.linalg.norm(np.cross(self.row, image.row)) < PARALLEL:
            self._check_matrix(image)

    def _check_matrix(self, image: Image) -> None:
        """Frames of the image's own matrix cover what its nearest slice covers, from whichever corner they begin."""
        slices = np.stack([place for frames in image.places.values() for place in frames.values()])
        rows, columns = ((count - 1) / 2 * size for count, size in zip(self.shape[1:], self.spacing, strict=True))
        theirs = slices + image.row * columns + image.column * rows
        nearest = np.abs((slices @ image.normal)[None] - (self.origins @ image.normal)[:, None]).argmin(axis=1)
        away = self.origins + self.row * columns + self.column * rows - theirs[nearest]
        if max(np.abs(away @ image.row).max() / self.spacing[1], np.abs(away @ image.column).max() / self.spacing[0]) > NEAR_PIXEL:
            raise Refused(Code.LABELS_MISPLACED)

    def _loaded(self, dataset: Any, threshold: float | None) -> Any:
        """Function of frames and a segment's number that gives their pixels (frames, rows, columns) bool."""
        kind = str(dataset.get("SegmentationType", ""))
        if not self.is_map and kind == "BINARY":
            return _bits(dataset, self.shape)
        if not self.is_map and (kind != "FRACTIONAL" or dataset.get("BitsAllocated") != 8):
            raise Refused(Code.BAD_HEADER)
        if not self.is_map and threshold is None:
            raise Refused(Code.LABELS_FRACTIONAL)
        if int(dataset.get("BitsAllocated", 0)) not in (8, 16) or int(dataset.get("PixelRepresentation", 0)) != 0:
            raise Refused(Code.BAD_HEADER)
        stored = objects.decode(dataset)
        if self.is_map:
            known = {item.number for item in self.companion.structures} | {0, int(dataset.get("PixelPaddingValue", 0))}
            if not set(np.unique(stored).tolist()) <= known:
                raise Refused(Code.LABELS_NUMBERS)
            return lambda frames, number: stored[frames] == number
        full = int(dataset.get("MaximumFractionalValue", 0) or 0)
        if not 1 <= full <= 255 or stored.max() > full:
            raise Refused(Code.BAD_HEADER)
        return lambda frames, number: stored[frames] >= threshold * full


def _shape(dataset: Any) -> tuple[int, int, int]:
    shape = tuple(int(dataset.get(word, 0) or 0) for word in ("NumberOfFrames", "Rows", "Columns"))
    if min(shape) < 1:
        raise Refused(Code.BAD_HEADER)
    if shape[0] > MAX_FRAMES or max(shape[1:]) > MAX_SIDE or shape[0] * shape[1] * shape[2] > MAX_BITS:
        raise Refused(Code.TOO_LARGE)
    return shape


def _positive(value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return 0.0
    return found if 0.01 <= found <= 100 else 0.0


def _bits(dataset: Any, shape: tuple[int, int, int]) -> Any:
    """Pixels of one bit each, the lowest bit first, frames one behind the other without a gap (PS3.5 8.1.1, D.1)."""
    if int(dataset.get("BitsAllocated", 0)) != 1:
        raise Refused(Code.BAD_HEADER)
    if "PixelData" not in dataset:
        raise Refused(Code.TRUNCATED)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed or not syntax.is_little_endian:
        raise Refused(Code.TRANSFER_SYNTAX)
    size = shape[1] * shape[2]
    data, expected = np.frombuffer(dataset.PixelData, np.uint8), -(-shape[0] * size // 8)
    if len(data) < expected:
        raise Refused(Code.TRUNCATED)
    if len(data) > expected + expected % 2:
        raise Refused(Code.CORRUPT)

    def load(frames: np.ndarray, number: int) -> np.ndarray:
        out = np.empty((len(frames), size), bool)
        for place, frame in zip(out, frames.tolist(), strict=True):
            start = frame * size
            bits = np.unpackbits(data[start // 8 : -(-(start + size) // 8)], bitorder="little")
            place[...] = bits[start % 8 : start % 8 + size]
        return out.reshape(-1, *shape[1:])

    return load
