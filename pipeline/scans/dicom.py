"""DICOM headers: which files belong to which volume. Pixels are not touched here.

A series is split by what really separates volumes: series, orientation, matrix, kind of image, acquisition, echo, time point and
diffusion weighting. What is no original CT, MR or PET slice is refused or set aside by name, never guessed at.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.scans.quarantine import Code, Refused

CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT", "1.2.840.10008.5.1.4.1.1.4": "MR", "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT", "1.2.840.10008.5.1.4.1.1.4.1": "MR", "1.2.840.10008.5.1.4.1.1.130": "PT",
}  # fmt: skip
ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.130")
COMPANIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3")  # segmentation, structure set
DEFLATED = "1.2.840.10008.1.2.1.99"
TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID", "Modality", "ImageType",
    "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "AcquisitionNumber",
    "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "DiffusionBValue", "TriggerTime", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BurnedInAnnotation", "ConversionType", "SequenceName", "StudyDate", "PatientName",
)  # fmt: skip
NO_PLACE = {  # words of ImageType: what was aimed with, projected, rendered or copied off a screen has no value of its own at a place
    "LOCALIZER", "SCOUT", "TOPOGRAM", "PROJECTION IMAGE", "MIP", "MINIP", "MAX_IP", "MIN_IP", "VRT", "SSD", "VOLREN", "VOLUME_RENDER",
    "SURFACE_RENDER", "CURVED_MPR", "SCREEN SAVE", "SCREEN_SAVE", "DOSE_INFO",
}  # fmt: skip
MAX_JITTER_MM = 0.05
MIN_SLICES = 4


@dataclass(frozen=True)
class Slice:
    """What a file's header says; ``position`` and ``orientation`` are in DICOM's LPS millimetres."""

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


@dataclass
class Series:
    """The slices of one volume to be."""

    slices: list[Slice] = field(default_factory=list)

    @property
    def first(self) -> Slice:
        return self.slices[0]


def read_header(path: Path) -> Slice | None:
    """None for a companion (segmentation, structure set); raises ``Refused`` for what is no slice of a volume."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        meta = pydicom.filereader.read_file_meta_info(path) if _has_preamble(path) else None
        if meta is not None and str(getattr(meta, "TransferSyntaxUID", "")) == DEFLATED:
            raise Refused(Code.DEFLATED)
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS), force=meta is None)
        return _slice(path, header)
    except Refused:
        raise
    except InvalidDicomError:
        raise Refused(Code.CORRUPT) from None
    except PermissionError:
        raise Refused(Code.UNREADABLE) from None
    except Exception:  # pydicom raises what it likes on damaged files, RecursionError among them
        raise Refused(Code.CORRUPT) from None


def group(slices: list[Slice]) -> list[Series]:
    """Slices by volume, in a stable order."""
    found: dict[tuple[Any, ...], Series] = defaultdict(Series)
    for item in slices:
        found[item.key].slices.append(item)
    for series in found.values():
        series.slices.sort(key=lambda item: str(item.path))
    return [found[key] for key in sorted(found, key=repr)]


def _has_preamble(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _slice(path: Path, header: Any) -> Slice | None:
    sop_class = str(header.get("SOPClassUID", ""))
    if sop_class in COMPANIONS:
        return None
    if sop_class not in CLASSES:
        raise Refused(Code.SOP_CLASS)
    _check_kind(header)
    enhanced = sop_class in ENHANCED
    image_type = tuple(str(word) for word in header.get("ImageType", ()) or ())
    orientation = () if enhanced else _orientation(header)
    shape = (int(header.get("Rows", 0) or 0), int(header.get("Columns", 0) or 0))
    if min(shape) < 1 or max(shape) > 4096:
        raise Refused(Code.TOO_LARGE if max(shape) > 4096 else Code.BAD_HEADER)
    series = str(header.get("SeriesInstanceUID", ""))
    if not series:
        raise Refused(Code.BAD_HEADER)
    parts = [
        str(header.get(tag, ""))
        for tag in ("AcquisitionNumber", "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "DiffusionBValue")
    ]
    key = (series, tuple(round(c, 3) + 0.0 for c in orientation), shape, image_type[:3], *parts)
    if enhanced:
        key = (*key, str(header.get("SOPInstanceUID", path)))
    return Slice(
        path, CLASSES[sop_class], series, str(header.get("StudyInstanceUID", "")),
        f"{header.get('PatientID', '')}\x1f{header.get('IssuerOfPatientID', '')}", str(header.get("SOPInstanceUID", "")), key,
        None if enhanced else _position(header), orientation, (0.0, 0.0) if enhanced else _spacing(header), shape, enhanced,
    )  # fmt: skip


def _check_kind(header: Any) -> None:
    image_type = {str(word).upper() for word in header.get("ImageType", ()) or ()}
    if image_type & NO_PLACE:
        raise Refused(Code.NOT_ORIGINAL)
    if str(header.get("BurnedInAnnotation", "NO")).upper() == "YES":
        raise Refused(Code.BURNED_IN)
    if int(header.get("SamplesPerPixel", 1) or 1) != 1 or str(header.get("PhotometricInterpretation", "MONOCHROME2"))[:10] != "MONOCHROME":
        raise Refused(Code.COLOUR)


def _numbers(header: Any, tag: str, count: int) -> tuple[float, ...] | None:
    value = header.get(tag)
    try:
        numbers = tuple(float(v) for v in value) if value is not None else ()
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _position(header: Any) -> tuple[float, float, float]:
    position = _numbers(header, "ImagePositionPatient", 3)
    if position is None:
        raise Refused(Code.NO_POSITION)
    return position


def _orientation(header: Any) -> tuple[float, ...]:
    """Row and column direction, which must be unit vectors at a right angle."""
    value = _numbers(header, "ImageOrientationPatient", 6)
    if value is None:
        raise Refused(Code.NO_POSITION)
    row, column = np.asarray(value[:3]), np.asarray(value[3:])
    if abs(np.linalg.norm(row) - 1) > 1e-3 or abs(np.linalg.norm(column) - 1) > 1e-3 or abs(row @ column) > 1e-3:
        raise Refused(Code.NO_POSITION)
    return value


def _spacing(header: Any) -> tuple[float, float]:
    value = _numbers(header, "PixelSpacing", 2)
    if value is None or min(value) <= 0:
        raise Refused(Code.PIXEL_SPACING)
    return value
