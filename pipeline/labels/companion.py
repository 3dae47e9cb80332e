"""What a DICOM segmentation or structure set says of itself: whose it is, which image it was drawn on, what its structures are called.

Segmentation and label map segmentation: PS3.3 A.51 and C.8.20; structure set: PS3.3 A.19 and C.8.8.5, C.8.8.6. Names of structures are free
text of the user's: they go to the study's private folder and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.scans.dicom import objects
from pipeline.scans.dicom.elements import read_elements
from pipeline.scans.dicom.headers import LABEL_MAP, SEGMENTATION, STRUCTURE_SET
from pipeline.scans.quarantine import Code, Refused

DELIMITERS = 0xFFFE  # the group of tags that begin and end items
MAX_STRUCTURES = 4096
MAX_CONTOURS = 200_000
MAX_FILE_BYTES = 1 << 30
CONTOUR_DATA = (b"\x06\x30\x50\x00", b"\x30\x06\x00\x50")  # (3006,0050) in either byte order
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OPEN = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")  # enclose nothing


@dataclass(frozen=True)
class Structure:
    """A segment or a region of interest; ``codes`` are SCHEME:VALUE; ``frame`` is its own frame of reference; ``skipped`` counts contours
    that enclose nothing (points, open lines)."""

    number: int
    name: str
    codes: tuple[str, ...] = ()
    frame: str = ""
    skipped: int = 0


@dataclass(frozen=True)
class Companion:
    """``series`` are the series that it refers to; ``cited`` the images, as (instance, number of the frame from 1 on, or 0), that its own
    frames or contours name, or else its list of references."""

    sop_class: str
    instance: str
    patient: str
    study: str
    frame: str
    series: frozenset[str]
    cited: frozenset[tuple[str, int]]
    structures: tuple[Structure, ...]

    def frames(self, number: int) -> str:
        """The frame of reference of one structure."""
        return next((item.frame for item in self.structures if item.number == number and item.frame), self.frame)


def read_companion(path: Path) -> Companion:
    """What the file says; raises ``Refused``. It is untrusted: call this in a child process."""
    check_file(path)
    return companion_of(objects.read_object(path, pixels=False))


def check_file(path: Path) -> None:
    """Before anything is parsed: the file is whole, and neither its size nor the number of its contours is beyond the limits."""
    read_elements(path)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise Refused(Code.TOO_LARGE)
    data = path.read_bytes()
    if sum(data.count(tag) for tag in CONTOUR_DATA) > MAX_CONTOURS:
        raise Refused(Code.TOO_LARGE)


def companion_of(dataset: Any) -> Companion:
    """Of an object that was read already."""
    try:
        kind = str(dataset.get("SOPClassUID", ""))
        if kind == STRUCTURE_SET:
            structures, own = _regions(dataset), set(_drawn_on(dataset))
            listed = list(_referenced_by_set(dataset))
        elif kind in (SEGMENTATION, LABEL_MAP):
            structures, own, listed = (
                _segments(dataset, kind == LABEL_MAP),
                set(_derived_from(dataset)),
                list(_referenced_by_segmentation(dataset)),
            )
        else:
            raise Refused(Code.SOP_CLASS)
        frame = str(dataset.get("FrameOfReferenceUID", "") or "") or _only_frame(dataset)
        return Companion(
            kind, str(dataset.get("SOPInstanceUID", "")), _patient(dataset), str(dataset.get("StudyInstanceUID", "")), frame,
            frozenset(series for series, _ in listed if series),
            frozenset(own or {image for _, images in listed for image in images}), tuple(structures),
        )  # fmt: skip
    except Refused:
        raise
    except Exception:  # pydicom reads an element when it is asked for, and raises what it likes where that is damaged
        raise Refused(Code.CORRUPT) from None


def items(dataset: Any, word: str) -> list[Any]:
    """The items of a sequence; none where it is absent. One that swallowed its neighbours, as its length was damaged, is refused."""
    found = dataset.get(word) if dataset is not None else None
    own = list(found) if found is not None else []
    if any(tag >> 16 == DELIMITERS for item in own for tag in item.keys()):  # noqa: SIM118 (a data set gives elements)
        raise Refused(Code.CORRUPT)
    return own


def _patient(dataset: Any) -> str:
    return f"{dataset.get('PatientID', '') or ''}\x1f{dataset.get('IssuerOfPatientID', '') or ''}"


def _segments(dataset: Any, is_map: bool) -> list[Structure]:
    """Number 0 is the background of a label map, and none elsewhere."""
    found = [
        Structure(
            int(item.SegmentNumber), str(item.get("SegmentLabel", "") or "").strip(), _codes(item, "SegmentedPropertyTypeCodeSequence")
        )
        for item in items(dataset, "SegmentSequence")
    ]
    if not is_map and any(item.number == 0 for item in found):
        raise Refused(Code.LABELS_NUMBERS)
    return _numbered([item for item in found if item.number != 0])


def _regions(dataset: Any) -> list[Structure]:
    observed = {
        int(item.ReferencedROINumber): item for item in items(dataset, "RTROIObservationsSequence") if "ReferencedROINumber" in item
    }
    skipped: dict[int, int] = {}
    for region in items(dataset, "ROIContourSequence"):
        number = int(region.ReferencedROINumber)
        kinds = [str(contour.get("ContourGeometricType", "")) for contour in items(region, "ContourSequence")]
        skipped[number] = skipped.get(number, 0) + sum(kind in OPEN for kind in kinds)
    found = []
    for item in items(dataset, "StructureSetROISequence"):
        number = int(item.ROINumber)
        codes = _codes(observed.get(number), "RTROIIdentificationCodeSequence")
        frame = str(item.get("ReferencedFrameOfReferenceUID", "") or "")
        found.append(Structure(number, str(item.get("ROIName", "") or "").strip(), codes, frame, skipped.get(number, 0)))
    return _numbered(found)


def _numbered(found: list[Structure]) -> list[Structure]:
    if len(found) > MAX_STRUCTURES:
        raise Refused(Code.TOO_LARGE)
    if not found or len({item.number for item in found}) < len(found):
        raise Refused(Code.LABELS_NUMBERS)
    return found


def _codes(item: Any, word: str) -> tuple[str, ...]:
    return tuple(f"{code.get('CodingSchemeDesignator', '')}:{code.get('CodeValue', '')}" for code in items(item, word))


def _only_frame(dataset: Any) -> str:
    frames = {str(item.get("FrameOfReferenceUID", "") or "") for item in items(dataset, "ReferencedFrameOfReferenceSequence")}
    return frames.pop() if len(frames) == 1 else ""


def images_of(references: list[Any]) -> Iterator[tuple[str, int]]:
    """(instance, number of the frame or 0) of each reference to an image."""
    for item in references:
        instance, numbers = str(item.get("ReferencedSOPInstanceUID", "") or ""), item.get("ReferencedFrameNumber")
        many = hasattr(numbers, "__iter__") and not isinstance(numbers, str)
        for number in (numbers if many else [numbers]) if instance else ():
            yield instance, int(number or 0)


def sources_of(frame: Any) -> list[tuple[str, int]]:
    """The images that a functional group of a segmentation says it was derived from."""
    derived = [source for item in items(frame, "DerivationImageSequence") for source in items(item, "SourceImageSequence")]
    return list(images_of(derived))


def _derived_from(dataset: Any) -> Iterator[tuple[str, int]]:
    for word in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for frame in items(dataset, word):
            yield from sources_of(frame)


def _referenced_by_segmentation(dataset: Any) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    for series in items(dataset, "ReferencedSeriesSequence"):
        yield str(series.get("SeriesInstanceUID", "") or ""), list(images_of(items(series, "ReferencedInstanceSequence")))


def _drawn_on(dataset: Any) -> Iterator[tuple[str, int]]:
    for region in items(dataset, "ROIContourSequence"):
        for contour in items(region, "ContourSequence"):
            yield from images_of(items(contour, "ContourImageSequence"))


def _referenced_by_set(dataset: Any) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    for frame in items(dataset, "ReferencedFrameOfReferenceSequence"):
        for study in items(frame, "RTReferencedStudySequence"):
            for series in items(study, "RTReferencedSeriesSequence"):
                yield str(series.get("SeriesInstanceUID", "") or ""), list(images_of(items(series, "ContourImageSequence")))
