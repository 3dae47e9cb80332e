"""A stack of DICOM slices as one volume: ordered along the normal, checked for gaps, repeats and tilt, scaled slice by slice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.dicom import MAX_JITTER_MM, MIN_SLICES, Slice, read_header
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_DRIFT_MM = 0.1
MAX_FRAMES = 10_000


@dataclass(frozen=True)
class Plane:
    """Where one slice lies, in DICOM's LPS millimetres; ``spacing`` is (between rows, between columns)."""

    position: np.ndarray
    orientation: np.ndarray
    spacing: tuple[float, float]


def ordered(slices: Sequence[Slice]) -> list[Slice]:
    """Slices without exact repeats, along the normal; raises ``Refused`` where they are no regular grid."""
    slices = _without_repeats(slices)
    if len({(s.shape, s.spacing) for s in slices}) > 1:
        raise Refused(Code.MIXED_SHAPE)
    planes = [Plane(np.asarray(s.position), np.asarray(s.orientation), s.spacing) for s in slices]
    places, _ = along_normal(planes)
    return [slices[place] for place in places]


def along_normal(planes: Sequence[Plane]) -> tuple[list[int], np.ndarray]:
    """(order, affine (4, 4) in LPS of (column, row, slice) indices) of planes that are a regular, untilted stack."""
    if len(planes) < MIN_SLICES:
        raise Refused(Code.TOO_FEW_SLICES)
    row, column = planes[0].orientation[:3], planes[0].orientation[3:]
    normal = np.cross(row, column)
    positions = np.stack([plane.position for plane in planes])
    height = positions @ normal
    order = np.argsort(height, kind="stable")
    positions, height = positions[order], height[order]
    steps = np.diff(height)
    if steps.min() < 1e-3:
        raise Refused(Code.DUPLICATE_POSITION)
    step = _step(height, steps)
    drift = positions - positions[0] - np.outer(height - height[0], normal)
    if np.abs(drift).max() > MAX_DRIFT_MM:
        raise Refused(Code.GANTRY_TILT)
    affine = np.eye(4)
    affine[:3, 0] = row * planes[0].spacing[1]
    affine[:3, 1] = column * planes[0].spacing[0]
    affine[:3, 2] = normal * step
    middle = (len(planes) - 1) / 2  # least squares: the fitted line goes through the mean
    affine[:3, 3] = positions.mean(0) - normal * step * middle
    return [int(place) for place in order], affine


def read_stack(paths: Sequence[Path | str]) -> Volume:
    """voxels (1, columns, rows, slices) float32 in physical units (HU for CT), RAS+ affine; raises ``Refused``."""
    slices = [item for item in (read_header(Path(path)) for path in paths) if item is not None]
    if slices and slices[0].enhanced:
        if len(slices) != 1:
            raise Refused(Code.MULTI_FRAME)
        planes, frames = _frames(slices[0])
    else:
        slices = ordered(slices)
        planes = [Plane(np.asarray(s.position), np.asarray(s.orientation), s.spacing) for s in slices]
        frames = [_pixels(_dataset(s.path)) for s in slices]
    order, affine = along_normal(planes)
    voxels = np.stack([frames[place].T for place in order], axis=-1)
    if not np.isfinite(voxels).any():
        raise Refused(Code.NOT_FINITE)
    voxels = np.where(np.isfinite(voxels), voxels, np.nanmin(voxels)).astype(np.float32)  # padding takes the least value
    return Volume(voxels[None], Grid(voxels.shape, LPS_TO_RAS @ affine))


def _step(height: np.ndarray, steps: np.ndarray) -> float:
    """Distance between slices by least squares; refused where a slice is missing or the distance varies."""
    median = float(np.median(steps))
    number = np.arange(len(height))
    step = float(np.polyfit(number, height, 1)[0])
    if np.abs(height - np.polyval(np.polyfit(number, height, 1), number)).max() <= MAX_JITTER_MM:
        return step
    multiples = steps / steps.min()
    gap = multiples.max() > 1.5 and np.abs(multiples - np.round(multiples)).max() < 0.1
    if gap and (multiples.round() > 1).sum() <= max(1, len(steps) // 4) and abs(median - steps.min()) < 0.1 * median:
        raise Refused(Code.MISSING_SLICE)
    raise Refused(Code.VARIABLE_SPACING)


def _without_repeats(slices: Sequence[Slice]) -> list[Slice]:
    """One of each image; two files of one image must be equal."""
    found: dict[str, Slice] = {}
    for item in slices:
        name = item.instance or str(item.path)
        if name in found:
            if _digest(found[name].path) != _digest(item.path):
                raise Refused(Code.CONFLICT)
            continue
        found[name] = item
    return list(found.values())


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _dataset(path: Path) -> Any:
    import pydicom

    try:
        return pydicom.dcmread(path, force=True)
    except Exception:  # pydicom raises what it likes on damaged files
        raise Refused(Code.CORRUPT) from None


def _decoded(dataset: Any) -> np.ndarray:
    """Stored values as whole numbers; what cannot be decoded whole is refused."""
    if "PixelData" not in dataset:
        raise Refused(Code.TRUNCATED)
    if not hasattr(dataset, "file_meta") or "TransferSyntaxUID" not in dataset.file_meta:
        import pydicom

        dataset.file_meta = getattr(dataset, "file_meta", None) or pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    expected = int(dataset.Rows) * int(dataset.Columns) * frames * int(dataset.BitsAllocated) // 8
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    if not compressed and len(dataset.PixelData) < expected:
        raise Refused(Code.TRUNCATED)
    try:
        return np.asarray(dataset.pixel_array)
    except (RuntimeError, NotImplementedError, ModuleNotFoundError):
        raise Refused(Code.TRANSFER_SYNTAX if compressed else Code.DECODER) from None
    except Exception:  # decoders raise what they like
        raise Refused(Code.DECODER) from None


def _pixels(dataset: Any) -> np.ndarray:
    """(rows, columns) float64 in physical units; NaN where the scanner padded."""
    stored = _decoded(dataset)
    if stored.ndim != 2:
        raise Refused(Code.MULTI_FRAME)
    return _scaled(stored, dataset, dataset.get("RescaleSlope"), dataset.get("RescaleIntercept"))


def _scaled(stored: np.ndarray, dataset: Any, slope: Any, inter: Any) -> np.ndarray:
    modality = str(dataset.get("Modality", ""))
    if slope is None and modality in ("CT", "PT"):
        raise Refused(Code.SCALING)
    try:
        slope, inter = float(1 if slope is None else slope), float(0 if inter is None else inter)
    except (TypeError, ValueError):
        raise Refused(Code.SCALING) from None
    if not np.isfinite([slope, inter]).all() or slope == 0:
        raise Refused(Code.SCALING)
    values = stored.astype(np.float64) * slope + inter
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        limit = dataset.get("PixelPaddingRangeLimit", padding)
        low, high = sorted(_as_stored(int(value), dataset) for value in (padding, limit))
        values[(stored >= low) & (stored <= high)] = np.nan
    return values


def _as_stored(value: int, dataset: Any) -> int:
    """A padding value with the signedness of the pixels: writers confuse US and SS."""
    bits = int(dataset.BitsAllocated)
    if int(dataset.get("PixelRepresentation", 0)) == 1:
        return value - (1 << bits) if value >= 1 << (bits - 1) else value
    return value + (1 << bits) if value < 0 else value


def _frames(item: Slice) -> tuple[list[Plane], list[np.ndarray]]:
    """Planes and pixels of an enhanced multi-frame object; several stacks or time points are refused."""
    dataset = _dataset(item.path)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not groups or len(groups) > MAX_FRAMES:
        raise Refused(Code.MULTI_FRAME)
    stored = _decoded(dataset)
    if stored.ndim != 3 or len(stored) != len(groups):
        raise Refused(Code.MULTI_FRAME)
    planes, frames = [], []
    for frame, own in zip(stored, groups, strict=True):
        position = _functional(own, shared, "PlanePositionSequence", "ImagePositionPatient")
        orientation = _functional(own, shared, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacing = _functional(own, shared, "PixelMeasuresSequence", "PixelSpacing")
        if position is None or orientation is None or spacing is None:
            raise Refused(Code.NO_POSITION)
        planes.append(Plane(np.asarray(position, float), np.asarray(orientation, float), (float(spacing[0]), float(spacing[1]))))
        slope = _functional(own, shared, "PixelValueTransformationSequence", "RescaleSlope")
        inter = _functional(own, shared, "PixelValueTransformationSequence", "RescaleIntercept")
        frames.append(_scaled(frame, dataset, slope, inter))
    same = all(np.allclose(p.orientation, planes[0].orientation, atol=1e-4) and p.spacing == planes[0].spacing for p in planes)
    if not same or min(planes[0].spacing) <= 0:
        raise Refused(Code.MULTI_FRAME)
    return planes, frames


def _functional(own: Any, shared: Any, sequence: str, name: str) -> Any:
    for group in (own, shared):
        if group is not None and group.get(sequence):
            value = group.get(sequence)[0].get(name)
            if value is not None:
                return value
    return None
