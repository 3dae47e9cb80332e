"""Enhanced multi-frame objects: frames by their functional groups, in any order, as one volume or as several (PS3.3 C.7.6.16).

Frames are told apart as the files of a classic series are: ``KEYS`` always separate volumes, ``TRAITS`` where frames share a place or
where only the parts are regular stacks, and the time of each frame where nothing else does.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np

from pipeline.scans.dicom import objects
from pipeline.scans.dicom.geometry import Plane
from pipeline.scans.dicom.grouping import group
from pipeline.scans.dicom.mosaic import tiles_of
from pipeline.scans.dicom.pixels import Image, coding_of
from pipeline.scans.dicom.slices import Series, Slice
from pipeline.scans.placement import MAX_POSITION_MM, MAX_SPACING_MM
from pipeline.scans.quarantine import Code, Refused

KEYS = (  # (functional group, ..., element)
    ("FrameContentSequence", "StackID"), ("FrameContentSequence", "TemporalPositionIndex"), ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRImageFrameTypeSequence", "FrameType"), ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    ("CTImageFrameTypeSequence", "FrameType"), ("PETFrameTypeSequence", "FrameType"),
)  # fmt: skip
TRAITS = (
    ("MREchoSequence", "EffectiveEchoTime"), ("MRDiffusionSequence", "DiffusionDirectionality"),
    ("MRDiffusionSequence", "DiffusionGradientDirectionSequence", "DiffusionGradientOrientation"),
    ("MRModifierSequence", "InversionTimes"), ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"), ("FrameContentSequence", "FrameAcquisitionNumber"),
)  # fmt: skip


def unfolded(series: Series) -> list[tuple[str, Series]]:
    """(kind, slices) of each volume of a series: ``dicom``; of an object with several volumes ``dicom:0``, ``dicom:1``, ..., in an order
    that depends on the object alone. Raises ``Refused``."""
    first = series.first
    if first.mosaic:
        return [("dicom", Series(tiles_of(first)))]
    if not first.enhanced:
        return [("dicom", series)]
    try:
        found = group(_frames(objects.read_object(first.path, pixels=False), first))
    except Refused:
        raise
    except Exception:  # pydicom reads an element when it is asked for, and raises what it likes where that is damaged
        raise Refused(Code.CORRUPT) from None
    if len(found) == 1:
        return [("dicom", Series([replace(item, key=first.key) for item in found[0].slices]))]
    return [(f"dicom:{number}", part) for number, part in enumerate(found)]


def read_frames(header: Slice, values: dict[str, Any], part: str = "") -> tuple[list[Plane], list[Image]]:
    """Planes and images of the only volume in an object, or of the one that ``unfolded`` gave this number."""
    dataset = objects.read_object(header.path)
    volumes = group(_frames(dataset, header))
    if not part and len(volumes) > 1:
        raise Refused(Code.MULTI_FRAME)
    if part and int(part) >= len(volumes):
        raise Refused(Code.CHANGED)
    frames = volumes[int(part or 0)].slices
    groups, shared = dataset.PerFrameFunctionalGroupsSequence, shared_of(dataset)
    stored = objects.decode(dataset)
    if len(stored) != len(groups):
        raise Refused(Code.MULTI_FRAME)
    images = []
    for item in frames:
        scaling = tuple(
            functional(groups[item.frame], shared, "PixelValueTransformationSequence", name)
            for name in ("RescaleSlope", "RescaleIntercept")
        )
        images.append(Image(partial(stored.__getitem__, item.frame), coding_of(values, header.modality, scaling), is_raw=False))
    return [item.plane for item in frames], images


def _frames(dataset: Any, header: Slice) -> list[Slice]:
    """A slice for each frame."""
    shared, groups = shared_of(dataset), dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not groups or len(groups) > objects.MAX_FRAMES:
        raise Refused(Code.MULTI_FRAME)
    frames = []
    for number, own in enumerate(groups):
        plane = plane_of(own, shared)
        key = (*header.key, *(str(functional(own, shared, *place)) for place in KEYS))
        frames.append(replace(
            header, instance=f"{number:05d}", key=key, position=tuple(map(float, plane.position)),
            orientation=tuple(map(float, plane.orientation)), spacing=plane.spacing, enhanced=False,
            traits=tuple(str(functional(own, shared, *place)) for place in TRAITS), clocks=_clocks(own, shared), frame=number,
        ))  # fmt: skip
    return frames


def shared_of(dataset: Any) -> Any:
    return (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]


def _clocks(own: Any, shared: Any) -> tuple[float | None, ...]:
    """When a frame was acquired; the order of frames in an object says nothing."""
    try:
        text = str(functional(own, shared, "FrameContentSequence", "FrameAcquisitionDateTime")).partition("+")[0].partition("-")[0]
        seconds = (datetime.strptime(text[:14], "%Y%m%d%H%M%S") - datetime(1900, 1, 1)).total_seconds() + float(f"0{text[14:] or '.0'}")
    except ValueError:
        seconds = None
    return None, seconds, None


def plane_of(own: Any, shared: Any) -> Plane:
    from pipeline.scans.dicom.headers import is_orientation

    position = _numbers(functional(own, shared, "PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _numbers(functional(own, shared, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = _numbers(functional(own, shared, "PixelMeasuresSequence", "PixelSpacing"), 2)
    if position is None or np.abs(position).max() > MAX_POSITION_MM or not is_orientation(orientation):
        raise Refused(Code.NO_POSITION)
    if spacing is None or min(spacing) <= 0 or max(spacing) > MAX_SPACING_MM:
        raise Refused(Code.PIXEL_SPACING)
    return Plane(position, orientation, (float(spacing[0]), float(spacing[1])))


def _numbers(found: Any, count: int) -> np.ndarray | None:
    try:
        numbers = np.asarray([float(number) for number in found])
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def functional(own: Any, shared: Any, *names: str) -> Any:
    """What stands at the end of nested sequences: of the frame itself, else of all frames; None where nothing does."""
    *sequences, last = names
    for items in (own, shared):
        for name in sequences:
            items = next(iter(items.get(name) or ()), None) if items is not None else None
        value = items.get(last) if items is not None else None
        if value is not None:
            return value
    return None
