"""DICOM headers: what each file is, and whether it can be a slice of a volume. Pixels are not touched here.

Derived images of a CT, MR or PET class (apparent diffusion, resampled PET, reformats) have values at places, and are read. What was
aimed with, projected, rendered or copied off a screen is refused by name.
"""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path
from typing import Any

from pipeline.scans.days import date_of
from pipeline.scans.dicom.elements import read_elements
from pipeline.scans.dicom.slices import Slice
from pipeline.scans.placement import MAX_POSITION_MM, MAX_SPACING_MM
from pipeline.scans.quarantine import Code, Refused

CT, MR, PT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"
ENHANCED = {f"{CT}.1": "CT", f"{MR}.1": "MR", "1.2.840.10008.5.1.4.1.1.130": "PT", f"{CT}.2": "CT", f"{MR}.4": "MR", f"{PT}.1": "PT"}
CLASSES = {CT: "CT", MR: "MR", PT: "PT", **ENHANCED}  # .2, .4 and .1 of PT: enhanced objects converted from classic ones
SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
COMPANIONS = (SEGMENTATION, LABEL_MAP, STRUCTURE_SET)
NO_PLACE = {
    "LOCALIZER", "SCOUT", "TOPOGRAM", "PROJECTION IMAGE", "MIP", "MINIP", "MAX_IP", "MIN_IP", "VRT", "SSD", "VOLREN", "VOLUME_RENDER",
    "SURFACE_RENDER", "CURVED_MPR", "SCREEN SAVE", "SCREEN_SAVE", "DOSE_INFO",
}  # fmt: skip
MAX_SIDE = 4096
SUV_INPUTS = (
    "Units", "SUVType", "CorrectedImage", "DecayCorrection", "PatientWeight", "SeriesDate", "SeriesTime", "AcquisitionDate",
    "AcquisitionTime", "RadiopharmaceuticalInformationSequence",
)  # fmt: skip


def read_header(path: Path) -> Slice | None:
    """None for a companion (segmentation, structure set); raises ``Refused`` for what is no slice of a volume."""
    return slice_of(path, read_elements(path).values)


def slice_of(path: Path, values: dict[str, Any]) -> Slice | None:
    """What ``read_header`` says, of elements that were read already."""
    sop_class = values.get("SOPClassUID", "")
    if sop_class in COMPANIONS:
        return None
    if sop_class not in CLASSES:
        raise Refused(Code.SOP_CLASS)
    _check_kind(values)
    enhanced = sop_class in ENHANCED
    shape = (values.get("Rows", 0), values.get("Columns", 0))
    mosaic = not enhanced and _is_mosaic(values, shape)  # enhanced objects only keep the word
    if mosaic and sop_class != MR:
        raise Refused(Code.MOSAIC)
    if min(shape) < 1 or max(shape) > MAX_SIDE:
        raise Refused(Code.TOO_LARGE if max(shape) > MAX_SIDE else Code.BAD_HEADER)
    series, instance = sys.intern(values.get("SeriesInstanceUID", "")), values.get("SOPInstanceUID", "")
    if not series or (mosaic and not instance):
        raise Refused(Code.BAD_HEADER)
    key = (series, shape, values.get("ImageType", ())[:3], values.get("DiffusionBValue", ""), instance if enhanced or mosaic else "")
    return Slice(
        path, CLASSES[sop_class], series, sys.intern(values.get("StudyInstanceUID", "")),
        sys.intern(f"{values.get('PatientID', '')}\x1f{values.get('IssuerOfPatientID', '')}"), instance, key,
        None if enhanced else _position(values), () if enhanced else _orientation(values), (0.0, 0.0) if enhanced else _spacing(values),
        shape, enhanced, mosaic, _traits(values), _clocks(values), date=date_of(values),
        acquired=int(_number(values, "ImagesInAcquisition") or 0), inverted=values.get("PhotometricInterpretation") == "MONOCHROME1",
        suv=_suv_inputs(values) if sop_class == PT else "",
    )  # fmt: skip


def _check_kind(values: dict[str, Any]) -> None:
    image_type = {word.upper() for word in values.get("ImageType", ())}
    if (image_type | {values.get("VolumeBasedCalculationTechnique", "").upper()}) & NO_PLACE:
        raise Refused(Code.NOT_ORIGINAL)
    if values.get("BurnedInAnnotation", "NO").upper() == "YES":
        raise Refused(Code.BURNED_IN)
    if values.get("SamplesPerPixel", 1) != 1 or not values.get("PhotometricInterpretation", "MONOCHROME2").startswith("MONOCHROME"):
        raise Refused(Code.COLOUR)


def acquired_of(matrix: Any) -> tuple[int, int] | None:
    """Sides of the matrix that was acquired, the smaller first. AcquisitionMatrix has them as rows or columns, of frequency and of phase,
    with zeros for the two that it does not use."""
    sides = sorted(int(side) for side in matrix or () if side > 0)
    return (sides[0], sides[1]) if len(sides) == 2 and len(matrix) == 4 else None


def _is_mosaic(values: dict[str, Any], shape: tuple[int, int]) -> bool:
    """An image that says so, and is larger than what was acquired: some tools take mosaics apart and leave the word in every slice."""
    named = "MOSAIC" in {word.upper() for word in values.get("ImageType", ())}
    return named and acquired_of(values.get("AcquisitionMatrix")) != tuple(sorted(shape))


def _suv_inputs(values: dict[str, Any]) -> str:
    found = [values.get(word, "") for word in SUV_INPUTS]
    return "" if None in found else hashlib.sha256(repr(found).encode()).hexdigest()


def _traits(values: dict[str, Any]) -> tuple[Any, ...]:
    words = ("EchoNumbers", "TemporalPositionIdentifier", "ImageType", "EchoTime", "AcquisitionNumber", "SequenceName",
             "DiffusionGradientOrientation", "InversionTime", "FlipAngle", "RepetitionTime")  # fmt: skip
    return tuple(values.get(word, "") for word in words)


def _clocks(values: dict[str, Any]) -> tuple[float | None, ...]:
    return _number(values, "InstanceNumber"), seconds_of_day(values.get("AcquisitionTime", "")), _number(values, "TriggerTime")


def seconds_of_day(time: str) -> float | None:
    """Of a DICOM time, HHMMSS.FFFFFF."""
    digits = time.replace(":", "").partition(".")
    if len(digits[0]) != 6 or not digits[0].isdigit() or (digits[2] and not digits[2].isdigit()):
        return None
    whole = int(digits[0][:2]) * 3600 + int(digits[0][2:4]) * 60 + int(digits[0][4:])
    return whole + float(f"0.{digits[2] or 0}")


def _number(values: dict[str, Any], word: str) -> float | None:
    found = _numbers(values, word, 1)
    return found[0] if found else None


def _numbers(values: dict[str, Any], word: str, count: int) -> tuple[float, ...] | None:
    found = values.get(word)
    return found if found is not None and len(found) == count and all(map(math.isfinite, found)) else None


def _position(values: dict[str, Any]) -> tuple[float, float, float]:
    position = _numbers(values, "ImagePositionPatient", 3)
    if position is None or max(map(abs, position)) > MAX_POSITION_MM:
        raise Refused(Code.NO_POSITION)
    return position


def _orientation(values: dict[str, Any]) -> tuple[float, ...]:
    """Row and column direction, which must be unit vectors at a right angle."""
    found = _numbers(values, "ImageOrientationPatient", 6)
    if not is_orientation(found):
        raise Refused(Code.NO_POSITION)
    return found


def is_orientation(found: Any) -> bool:
    """Whether six numbers are two unit vectors at a right angle."""
    if found is None or len(found) != 6 or not all(map(math.isfinite, found)):
        return False
    row, column = found[:3], found[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    turned = sum(a * b for a, b in zip(row, column, strict=True))
    return abs(lengths[0] - 1) <= 1e-3 and abs(lengths[1] - 1) <= 1e-3 and abs(turned) <= 1e-3


def _spacing(values: dict[str, Any]) -> tuple[float, float]:
    found = _numbers(values, "PixelSpacing", 2)
    if found is None or min(found) <= 0 or max(found) > MAX_SPACING_MM:
        raise Refused(Code.PIXEL_SPACING)
    return found
