# ruff: noqa: RUF005 (arrays are added, not joined)
"""DICOM segmentations and structure sets of analytic shapes in patient space, as tools write them; a case spoils them afterwards."""

from pathlib import Path

import numpy as np
import pydicom
from faults.series import make_series, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

SEGMENTATION, LABEL_MAP, STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.5.1.4.1.1.481.3"
SHAPE, SPACING, STEP, COUNT = (26, 22), (1.5, 1.25), 2.5, 12
ORIGIN = np.array([-12.0, -18.0, 5.0])
CENTRE = ORIGIN + [13.0, 17.5, 14.0]


def ball(radius=9.0, centre=CENTRE):
    """A function of (..., 3) points in LPS mm: their depth below the surface of a ball in mm, negative outside."""
    return lambda points: radius - np.linalg.norm(points - np.asarray(centre), axis=-1)


def box(low, high):
    """The same of a box."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    return lambda points: np.minimum(points - low, high - points).min(axis=-1)


def image(**options):
    """The slices of an image in which the shapes lie."""
    return make_series(options.pop("count", COUNT), **{"shape": SHAPE, "spacing": SPACING, "step": STEP, "origin": ORIGIN, **options})


def plane_of(ds):
    position, orientation = (np.array(ds[word].value, float) for word in ("ImagePositionPatient", "ImageOrientationPatient"))
    return position, orientation, tuple(map(float, ds.PixelSpacing)), (int(ds.Rows), int(ds.Columns))


def centres(position, orientation, spacing, shape):
    """(rows, columns, 3) LPS mm of a plane's pixels."""
    i, j = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return position + i[..., None] * orientation[3:] * spacing[0] + j[..., None] * orientation[:3] * spacing[1]


def _base(slices, sop_class, modality):
    ds = Dataset()
    for word in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(ds, word, slices[0][word].value)
    ds.SOPClassUID, ds.Modality = sop_class, modality
    ds.SOPInstanceUID, ds.SeriesInstanceUID = uid("labels", sop_class, slices[0].SeriesInstanceUID), uid("series of labels", sop_class)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def _cited(ds, number=0):
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    if number:
        item.ReferencedFrameNumber = number
    return item


def described(number, name, code="123"):
    """A segment's description."""
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel, item.SegmentAlgorithmType = number, name, "MANUAL"
    item.SegmentedPropertyTypeCodeSequence = [Dataset()]
    coded = item.SegmentedPropertyTypeCodeSequence[0]
    coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = code, "SCT", name
    return item


def make_segmentation(slices, shapes, *, planes=None, order=None, kind="BINARY", cites=True, empty=False, enhanced=None, thick=None):
    """A segmentation of ``shapes`` ({(number, name): depth function}). ``planes``: (position, orientation, spacing, shape) of each, those
    of the slices if none are given; ``empty``: with frames in which nothing is; ``order`` permutes frames; ``enhanced``: the object that
    is cited."""
    ds = _base(slices, LABEL_MAP if kind == "LABELMAP" else SEGMENTATION, "SEG")
    planes = [plane_of(item) for item in slices] if planes is None else planes
    spacing, shape, orientation = planes[0][2], planes[0][3], planes[0][1]
    ds.SegmentationType, ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = kind, *shape, 1, "MONOCHROME2"
    ds.SegmentSequence = [described(number, name) for number, name in shapes]
    frames = []  # (segment, number of the plane, pixels)
    depths = {number: [depth(centres(*plane)) for plane in planes] for (number, _), depth in shapes.items()}
    if kind == "LABELMAP":
        pixels = [np.zeros(shape, np.uint8) for _ in planes]
        for number, depth in depths.items():
            for place, one in zip(pixels, depth, strict=True):
                place[one > 0] = number
        frames = [(0, number, place) for number, place in enumerate(pixels)]
    else:
        for number, depth in depths.items():
            made = [(one > 0) if kind == "BINARY" else np.clip(np.rint(100 + 50 * one), 0, 200) for one in depth]
            frames += [(number, place, one) for place, one in enumerate(made) if empty or one.any()]
    frames = [frames[place] for place in (order(len(frames)) if order else range(len(frames)))]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [Dataset()], []
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [Dataset()], [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = list(spacing)
    if thick != 0:
        shared.PixelMeasuresSequence[0].SpacingBetweenSlices = thick or _step(planes)
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [f"{c:.9f}" for c in orientation]
    for number, place, _ in frames:
        own = Dataset()
        own.PlanePositionSequence, own.FrameContentSequence = [Dataset()], [Dataset()]
        own.PlanePositionSequence[0].ImagePositionPatient = [f"{c:.9f}"[:16] for c in planes[place][0]]
        own.FrameContentSequence[0].DimensionIndexValues = [max(1, number), place + 1]
        if number:
            own.SegmentIdentificationSequence = [Dataset()]
            own.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
        if cites and len(planes) == len(slices):
            own.DerivationImageSequence = [Dataset()]
            source = _cited(enhanced, place + 1) if enhanced is not None else _cited(slices[place])
            own.DerivationImageSequence[0].SourceImageSequence = [source]
        ds.PerFrameFunctionalGroupsSequence.append(own)
    if cites:
        ds.ReferencedSeriesSequence = [Dataset()]
        ds.ReferencedSeriesSequence[0].SeriesInstanceUID = slices[0].SeriesInstanceUID
        images = [_cited(enhanced)] if enhanced is not None else [_cited(item) for item in slices]
        ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence = images
    ds.NumberOfFrames = len(frames)
    fill(ds, np.stack([one for _, _, one in frames]) if frames else np.zeros((0, *shape), bool))
    return ds


def _step(planes):
    normal = np.cross(planes[0][1][:3], planes[0][1][3:])
    return f"{np.diff(np.unique(np.round([plane[0] @ normal for plane in planes], 4))).min() if len(planes) > 1 else STEP:.6f}"


def fill(ds, pixels):
    """Puts pixels (frames, rows, columns) into a segmentation: of one bit where they are bool."""
    bits = 1 if pixels.dtype == bool else 8
    data = np.packbits(pixels.ravel(), bitorder="little").tobytes() if bits == 1 else pixels.astype(np.uint8).tobytes()
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit, ds.PixelRepresentation = bits - 1, 0
    if ds.SegmentationType == "FRACTIONAL":
        ds.SegmentationFractionalType, ds.MaximumFractionalValue = "PROBABILITY", 200
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"


def make_structure_set(slices, regions, *, cites=True, series=True):
    """A structure set; ``regions``: {(number, name): [(number of the slice, points (n, 3) LPS mm), ...]}."""
    ds = _base(slices, STRUCTURE_SET, "RTSTRUCT")
    ds.StructureSetLabel = "drawn"
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for (number, name), contours in regions.items():
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, ds.FrameOfReferenceUID
        drawn.ReferencedROINumber = observed.ReferencedROINumber = number
        observed.ObservationNumber, observed.RTROIInterpretedType = number, "GTV"
        drawn.ContourSequence = [contour(points, slices[place] if cites else None) for place, points in contours]
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
        ds.RTROIObservationsSequence.append(observed)
    if series:
        frame, study, own = Dataset(), Dataset(), Dataset()
        own.SeriesInstanceUID, own.ContourImageSequence = slices[0].SeriesInstanceUID, [_cited(item) for item in slices]
        study.RTReferencedSeriesSequence = [own]
        frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = ds.FrameOfReferenceUID, [study]
        ds.ReferencedFrameOfReferenceSequence = [frame]
    return ds


def contour(points, on=None, kind="CLOSED_PLANAR"):
    item = Dataset()
    item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
    item.ContourData = [f"{c:.6f}" for c in np.asarray(points, float).ravel()]
    if on is not None:
        item.ContourImageSequence = [_cited(on)]
    return item


def outline(ds, corners):
    """(n, 3) LPS mm of (row, column) places in pixels of a slice."""
    position, orientation, spacing, _ = plane_of(ds)
    corners = np.asarray(corners, float)
    return position + corners[:, :1] * orientation[3:] * spacing[0] + corners[:, 1:] * orientation[:3] * spacing[1]


def rectangle(low, high):
    """Corners (row, column) of a rectangle, anticlockwise."""
    return [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]


def write(ds, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path
