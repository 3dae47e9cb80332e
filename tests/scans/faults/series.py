"""DICOM series of the analytic field, written as a scanner would; a case spoils them afterwards."""

from pathlib import Path

import numpy as np
import pydicom
from faults.phantom import field
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, MR, PT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"
CLASSES = {"CT": CT, "MR": MR, "PT": PT}
SHAPE = (12, 10)  # rows, columns
SPACING = (1.5, 1.25)  # between rows, between columns
STEP = 2.5
FRAME_CONTENT, DIMENSIONS = 0x00209111, (0x00209056, 0x00209057, 0x00209128)  # stack, place in the stack, place in time


def uid(*words: object) -> str:
    return generate_uid(entropy_srcs=[str(word) for word in words])


def make_slice(number, normal_mm, orientation=(1, 0, 0, 0, 1, 0), *, shift=(0.0, 0.0), origin=(-7.0, 4.0, 11.0), modality="CT", series="A",
               offset=0.0, slope=1.0, inter=None, shape=SHAPE, spacing=SPACING):  # fmt: skip
    """One slice ``normal_mm`` along its normal, ``shift`` (along the row, along the column) within its plane."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    position = np.array(origin) + np.cross(row, column) * normal_mm + row * shift[0] + column * shift[1]
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    values = field(position + i[..., None] * column * spacing[0] + j[..., None] * row * spacing[1]) + offset
    inter = (-1024.0 if modality == "CT" else 0.0) if inter is None else inter
    ds = Dataset()
    ds.SOPClassUID, ds.Modality = CLASSES[modality], modality
    ds.SOPInstanceUID, ds.SeriesInstanceUID = uid(series, number, offset, shape), uid("series", series)
    ds.StudyInstanceUID, ds.PatientID, ds.PatientName = uid("study"), "P1", "Canary^Name"
    ds.FrameOfReferenceUID, ds.SeriesNumber, ds.SliceThickness = uid("frame"), 1 + (series != "A"), STEP
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.InstanceNumber = number + 1
    ds.ImagePositionPatient = [f"{c:.9f}"[:16] for c in position]
    ds.ImageOrientationPatient = [f"{c:.9f}" for c in (*row, *column)]
    ds.PixelSpacing = list(spacing)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    if modality != "MR" or (slope, inter) != (1, 0):
        ds.RescaleSlope, ds.RescaleIntercept = f"{slope:.10g}", f"{inter:.10g}"
    store(ds, (values - inter) / slope)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def store(ds, values, *, kind="uint16", used=None, high=None):
    """Puts rounded values into a slice as stored numbers of a type."""
    kind = np.dtype(kind)
    bits = kind.itemsize * 8
    ds.Rows, ds.Columns = values.shape[-2:]
    ds.BitsAllocated, ds.BitsStored = bits, used or bits
    ds.HighBit, ds.PixelRepresentation = (ds.BitsStored - 1 if high is None else high), int(kind.kind == "i")
    ds.PixelData = np.rint(values).astype(kind).tobytes()
    ds["PixelData"].VR = "OW"


def stored(ds) -> np.ndarray:
    return np.frombuffer(ds.PixelData, f"<{'i' if ds.PixelRepresentation else 'u'}{ds.BitsAllocated // 8}").reshape(ds.Rows, ds.Columns)


def make_series(count=8, **options) -> list[Dataset]:
    step = options.pop("step", STEP)
    return [make_slice(number, number * step, **options) for number in range(count)]


def save(slices, folder: Path, prefix: str = "s") -> list[Path]:
    """Writes slices under names that say nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(slices):
        path = folder / f"{prefix}{(number * 7919) % 1009:04d}"
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
        paths.append(path)
    return paths


def make_enhanced(slices, *, order=None, content=(), per_frame_scaling=False, orientations=False) -> Dataset:
    """An enhanced CT object of slices; ``content``: a dictionary a frame for its FrameContentSequence (an echo time or a gradient goes to
    the sequence of its own); ``orientations``: one a frame."""
    first = slices[0]
    order = list(range(len(slices))) if order is None else order
    ds = Dataset()
    for word in ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "FrameOfReferenceUID", "SeriesNumber", "Rows", "Columns",
                 "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
                 "PhotometricInterpretation"):  # fmt: skip
        setattr(ds, word, getattr(first, word))
    ds.SOPClassUID, ds.SOPInstanceUID, ds.ImageType = f"{CT}.1", uid("enhanced", len(slices)), ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames = len(slices)
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [Dataset()], [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = first.PixelSpacing
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = first.ImageOrientationPatient
    if orientations:
        del shared.PlaneOrientationSequence
    if not per_frame_scaling:
        shared.PixelValueTransformationSequence = [_scaling(first)]
    ds.SharedFunctionalGroupsSequence, frames = [shared], []
    for place in order:
        frame = Dataset()
        frame.PlanePositionSequence, frame.FrameContentSequence = [Dataset()], [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = slices[place].ImagePositionPatient
        frame.FrameContentSequence[0].StackID = "1"
        for word, value in (content[place] if content else {}).items():
            _put(frame, word, value)
        if orientations:
            frame.PlaneOrientationSequence = [Dataset()]
            frame.PlaneOrientationSequence[0].ImageOrientationPatient = slices[place].ImageOrientationPatient
        _index(frame.FrameContentSequence[0], [tuple(item.ImagePositionPatient) for item in slices], place)
        if per_frame_scaling:
            frame.PixelValueTransformationSequence = [_scaling(slices[place])]
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.DimensionOrganizationSequence = [Dataset()]
    ds.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid("dimensions")
    ds.DimensionIndexSequence = [Dataset() for _ in frames[0].FrameContentSequence[0].DimensionIndexValues]
    for item, element in zip(ds.DimensionIndexSequence, DIMENSIONS, strict=False):
        item.DimensionIndexPointer, item.FunctionalGroupPointer, item.DimensionOrganizationUID = element, FRAME_CONTENT, uid("dimensions")
    ds.PixelData = b"".join(slices[place].PixelData for place in order)
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def _index(content, positions, place: int) -> None:
    """Numbers a frame as a scanner does: by stack, by place in the stack, and by what is repeated there."""
    places = sorted(set(positions), key=positions.index)
    content.InStackPositionNumber = places.index(positions[place]) + 1
    repeat = [positions[:place].count(positions[place]) + 1] if len(places) < len(positions) else []
    content.DimensionIndexValues = [1, content.InStackPositionNumber, *repeat]


def _put(frame, word, value) -> None:
    item = Dataset()
    if word == "MREchoSequence":
        item.EffectiveEchoTime, frame.MREchoSequence = value, [item]
    elif word == "gradient":
        item.DiffusionGradientOrientation, frame.MRDiffusionSequence = value, [Dataset()]
        frame.MRDiffusionSequence[0].DiffusionGradientDirectionSequence = [item]
    else:
        setattr(frame.FrameContentSequence[0], word, value)


def _scaling(ds) -> Dataset:
    item = Dataset()
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = ds.RescaleSlope, ds.RescaleIntercept, "HU"
    return item
