"""Enhanced multi-frame objects: frames by their functional groups, in any order (PS3.3 C.7.6.16)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.scans import objects
from pipeline.scans.geometry import Plane
from pipeline.scans.pixels import Image, coding_of
from pipeline.scans.quarantine import Code, Refused

APART = (  # what must be one value in all frames of a volume: (functional group, element)
    ("FrameContentSequence", "StackID"), ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "FrameAcquisitionNumber"), ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"), ("MRDiffusionSequence", "DiffusionDirectionality"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"), ("MRImageFrameTypeSequence", "FrameType"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent"), ("CTImageFrameTypeSequence", "FrameType"),
)  # fmt: skip
MAX_POSITION_MM = 1e5


def read_frames(path: Path, values: dict[str, Any], modality: str) -> tuple[list[Plane], list[Image]]:
    """Planes and images of the one volume in an object; several stacks, echoes or time points are refused."""
    dataset = objects.read_object(path)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not groups or len(groups) > objects.MAX_FRAMES:
        raise Refused(Code.MULTI_FRAME)
    stored = objects.decode(dataset)
    if len(stored) != len(groups):
        raise Refused(Code.MULTI_FRAME)
    planes = [_plane(own, shared) for own in groups]
    if len({tuple(str(_functional(own, shared, *place)) for place in APART) for own in groups}) > 1:
        raise Refused(Code.MULTI_FRAME)
    images = []
    for number, own in enumerate(groups):
        scaling = tuple(_functional(own, shared, "PixelValueTransformationSequence", name) for name in ("RescaleSlope", "RescaleIntercept"))
        images.append(Image(partial(stored.__getitem__, number), coding_of(values, modality, scaling), is_raw=False))
    return planes, images


def _plane(own: Any, shared: Any) -> Plane:
    from pipeline.scans.dicom import MAX_SPACING_MM, is_orientation

    position = _numbers(_functional(own, shared, "PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _numbers(_functional(own, shared, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = _numbers(_functional(own, shared, "PixelMeasuresSequence", "PixelSpacing"), 2)
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


def _functional(own: Any, shared: Any, sequence: str, name: str) -> Any:
    for group in (own, shared):
        if group is not None and group.get(sequence):
            value = group.get(sequence)[0].get(name)
            if value is not None:
                return value
    return None
