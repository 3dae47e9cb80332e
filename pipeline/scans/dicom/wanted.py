"""Which elements of a DICOM file are read, and as what.

Values come back by keyword: ``text`` a str, ``texts`` a tuple of str, ``numbers`` a tuple of float or None where they are no numbers,
``doubles`` and ``shorts`` likewise from binary arrays, ``short`` an int, ``raw`` its bytes, ``present`` whether it is there. Absent and
empty elements are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

IMPLICIT = "1.2.840.10008.1.2"
WANTED: dict[int, tuple[str, str]] = {
    0x00080005: ("SpecificCharacterSet", "texts"), 0x00080008: ("ImageType", "texts"), 0x00080016: ("SOPClassUID", "text"),
    0x00080018: ("SOPInstanceUID", "text"), 0x00080020: ("StudyDate", "text"), 0x00080021: ("SeriesDate", "text"),
    0x00080022: ("AcquisitionDate", "text"), 0x00080031: ("SeriesTime", "text"), 0x00080032: ("AcquisitionTime", "text"),
    0x00080060: ("Modality", "text"), 0x00080064: ("ConversionType", "text"), 0x00089206: ("VolumetricProperties", "text"),
    0x00089207: ("VolumeBasedCalculationTechnique", "text"), 0x00100020: ("PatientID", "text"), 0x00100021: ("IssuerOfPatientID", "text"),
    0x00101030: ("PatientWeight", "numbers"), 0x00180024: ("SequenceName", "text"), 0x00180080: ("RepetitionTime", "text"),
    0x00180081: ("EchoTime", "text"), 0x00180082: ("InversionTime", "text"), 0x00180086: ("EchoNumbers", "text"),
    0x00181060: ("TriggerTime", "numbers"), 0x00181310: ("AcquisitionMatrix", "shorts"), 0x00181314: ("FlipAngle", "text"),
    0x00189087: ("DiffusionBValue", "doubles"), 0x00189089: ("DiffusionGradientOrientation", "doubles"),
    0x0020000D: ("StudyInstanceUID", "text"),
    0x0020000E: ("SeriesInstanceUID", "text"), 0x00200012: ("AcquisitionNumber", "text"), 0x00200013: ("InstanceNumber", "numbers"),
    0x00200032: ("ImagePositionPatient", "numbers"), 0x00200037: ("ImageOrientationPatient", "numbers"),
    0x00200052: ("FrameOfReferenceUID", "text"), 0x00200100: ("TemporalPositionIdentifier", "text"),
    0x00201002: ("ImagesInAcquisition", "numbers"), 0x00280002: ("SamplesPerPixel", "short"),
    0x00280004: ("PhotometricInterpretation", "text"), 0x00280008: ("NumberOfFrames", "numbers"), 0x00280010: ("Rows", "short"),
    0x00280011: ("Columns", "short"), 0x00280030: ("PixelSpacing", "numbers"), 0x00280051: ("CorrectedImage", "text"),
    0x00280100: ("BitsAllocated", "short"), 0x00280101: ("BitsStored", "short"), 0x00280102: ("HighBit", "short"),
    0x00280103: ("PixelRepresentation", "short"), 0x00280120: ("PixelPaddingValue", "short"),
    0x00280121: ("PixelPaddingRangeLimit", "short"), 0x00280301: ("BurnedInAnnotation", "text"),
    0x00281052: ("RescaleIntercept", "numbers"), 0x00281053: ("RescaleSlope", "numbers"), 0x00283000: ("ModalityLUTSequence", "present"),
    0x00540016: ("RadiopharmaceuticalInformationSequence", "raw"), 0x00541001: ("Units", "text"), 0x00541006: ("SUVType", "text"),
    0x00541102: ("DecayCorrection", "text"),
}  # fmt: skip
ARRAYS = {"doubles": ("d", 8), "shorts": ("H", 2)}


@dataclass(frozen=True)
class Elements:
    """``pixels`` is (offset, length) of native pixel data in the file; None where they are compressed, big endian or absent."""

    values: dict[str, Any]
    syntax: str
    pixels: tuple[int, int] | None


def numbers_of(words: Any) -> tuple[float, ...] | None:
    try:
        if any(isinstance(word, str) and "_" in word for word in words):
            return None  # Python reads 1_5 as 15
        return tuple(float(word) for word in words)
    except (TypeError, ValueError):
        return None
