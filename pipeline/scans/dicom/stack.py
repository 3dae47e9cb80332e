"""A DICOM series as one volume: slices ordered along their normal, scaled one by one, a tilted gantry undone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.dicom import objects
from pipeline.scans.dicom.elements import read_elements
from pipeline.scans.dicom.frames import read_frames
from pipeline.scans.dicom.geometry import LPS_TO_RAS, Plane, Stack, stack_of
from pipeline.scans.dicom.headers import slice_of
from pipeline.scans.dicom.mosaic import images_of, tiles_of
from pipeline.scans.dicom.pixels import Image, coding_of, scale_into
from pipeline.scans.dicom.slices import Slice
from pipeline.scans.dicom.suv import suv_factor
from pipeline.scans.dicom.wanted import Elements
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume

__all__ = ["LPS_TO_RAS", "Plane", "grid_of", "ordered", "read_stack"]

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
MAX_VOXELS = 2**31
SCALING = {"RescaleSlope": 1, "RescaleIntercept": 0}


def ordered(slices: Sequence[Slice]) -> list[Slice]:
    """Slices without exact repeats, along the normal; raises ``Refused`` where they are no regular grid."""
    slices = _without_repeats(slices)
    if len({item.shape for item in slices}) > 1:
        raise Refused(Code.MIXED_SHAPE)
    return [slices[place] for place in stack_of([item.plane for item in slices]).order]


def grid_of(slices: Sequence[Slice]) -> Grid:
    """Where the voxels of a volume lie (columns, rows, slices), a tilt left out; raises ``Refused`` where it is no regular stack."""
    slices = ordered(slices)
    rows, columns = slices[0].shape
    return Grid((columns, rows, len(slices)), LPS_TO_RAS @ stack_of([item.plane for item in slices]).affine)


def read_stack(paths: Sequence[Path | str], allocate: Allocate = np.empty, part: str = "") -> Volume:
    """voxels (1, columns, rows, slices) in physical units (HU for CT, SUV for PET where all that it needs is stated), int16 where that
    is exact, else float32, and an RAS+ affine; raises ``Refused``. ``allocate`` gives the array for the voxels; ``part`` is the number of
    the volume in an object that holds several (``frames.unfolded``)."""
    found = {Path(path): read_elements(Path(path)) for path in paths}
    slices = [item for item in (slice_of(path, elements.values) for path, elements in found.items()) if item is not None]
    if not slices:
        raise Refused(Code.TOO_FEW_SLICES)
    if slices[0].is_whole:
        slices = _without_repeats(slices)
        if len(slices) != 1:
            raise Refused(Code.MULTI_FRAME)
        planes, images, shape = _opened(slices[0], found[slices[0].path], part)
    else:
        slices = ordered(slices)
        _check_scaling([found[item.path].values for item in slices])
        planes = [item.plane for item in slices]
        factor = suv_factor(slices) if slices[0].modality == "PT" else 1.0
        images, shape = [_image(item, found[item.path], factor) for item in slices], slices[0].shape
    return _assembled(stack_of(planes), planes[0], images, shape, allocate)


def _opened(item: Slice, elements: Elements, part: str) -> tuple[list[Plane], list[Image], tuple[int, int]]:
    """Planes, images and their shape of a file that holds all of its volume."""
    if not item.mosaic:
        return *read_frames(item, elements.values, part), item.shape
    tiles = tiles_of(item)
    return [tile.plane for tile in tiles], images_of(_image(item, elements, 1.0), tiles, item.shape), tiles[0].shape


def _assembled(stack: Stack, plane: Plane, images: list[Image], shape: tuple[int, int], allocate: Allocate) -> Volume:
    size = (len(images), *shape)
    if int(np.prod(size, dtype=np.int64)) > MAX_VOXELS:
        raise Refused(Code.TOO_LARGE)
    images = [images[place] for place in stack.order]
    tilted = stack.tilt_mm != (0.0, 0.0)
    for kind in (np.int16, np.float32):
        if kind == np.int16 and not all(image.coding.is_whole for image in images):
            continue
        out = np.empty(size, kind) if tilted else allocate(size, kind)
        if scale_into(images, out):
            break
    affine = stack.affine
    if tilted:
        out, affine = _upright(out, stack, plane, allocate)
    voxels = out.transpose(2, 1, 0)  # no copy: columns run slowest in memory order of a slice
    return Volume(voxels[None], Grid(voxels.shape, LPS_TO_RAS @ affine))


def _upright(slices: np.ndarray, stack: Stack, plane: Plane, allocate: Allocate) -> tuple[np.ndarray, np.ndarray]:
    """A tilted stack on the upright grid that holds all of it: each slice moved within its plane, linear between neighbouring pixels."""
    number = np.arange(len(slices)) - (len(slices) - 1) / 2
    shifts = [number * stack.tilt_mm[1] / plane.spacing[0], number * stack.tilt_mm[0] / plane.spacing[1]]  # along rows' index, columns'
    margins = [int(np.ceil(np.abs(shift).max() - 1e-6)) for shift in shifts]
    outside = slices.min()
    size = (len(slices), *(n + 2 * margin for n, margin in zip(slices.shape[1:], margins, strict=True)))
    out = allocate(size, np.float32)
    for place, plain, *shift in zip(out, slices, *shifts, strict=True):
        moved = _moved(plain.astype(np.float32), shift[0], margins[0], outside)
        place[...] = _moved(moved.T, shift[1], margins[1], outside).T
    affine = stack.affine.copy()
    affine[:3, 3] -= affine[:3, 0] * margins[1] + affine[:3, 1] * margins[0]
    return out, affine


def _moved(image: np.ndarray, shift: float, margin: int, outside: float) -> np.ndarray:
    """(n, ...) -> (n + 2 margin, ...): the image ``shift`` further along its first axis; what it does not reach is ``outside``."""
    if margin == 0:
        return image
    source = np.arange(len(image) + 2 * margin) - margin - shift
    low = np.clip(np.floor(source).astype(int), 0, len(image) - 2)
    weight = (source - low).astype(np.float32)[:, None]
    moved = image[low] * (1 - weight) + image[low + 1] * weight
    moved[(source < -1e-6) | (source > len(image) - 1 + 1e-6)] = outside
    return moved


def _image(item: Slice, elements: Elements, factor: float) -> Image:
    coding = coding_of(elements.values, item.modality)
    if factor != 1.0:
        coding = type(coding)(**{**vars(coding), "slope": coding.slope * factor, "inter": coding.inter * factor})
    if elements.pixels is None:
        if coding.high != coding.used - 1:
            raise Refused(Code.BAD_HEADER)
        return Image(partial(_decoded, item), coding, is_raw=False)
    expected = item.shape[0] * item.shape[1] * coding.bits // 8
    if elements.pixels[1] != expected + expected % 2:
        raise Refused(Code.TRUNCATED if elements.pixels[1] < expected else Code.CORRUPT)
    return Image(partial(_native, item, elements.pixels[0], expected, coding.bits), coding, is_raw=True)


def _check_scaling(headers: Sequence[dict[str, Any]]) -> None:
    """Slices without a scaling beside slices with one are in other units (an MR may do without it)."""
    plain = {values.get(word) in (None, (float(number),)) for values in headers for word, number in SCALING.items()}
    if any(len({word in values for values in headers}) > 1 for word in SCALING) and plain != {True}:
        raise Refused(Code.SCALING)


def _native(item: Slice, offset: int, length: int, bits: int) -> np.ndarray:
    with item.path.open("rb", buffering=0) as stream:
        stream.seek(offset)
        raw = stream.read(length)
    if len(raw) != length:
        raise Refused(Code.CHANGED)
    return np.frombuffer(raw, f"<u{bits // 8}").reshape(item.shape)


def _decoded(item: Slice) -> np.ndarray:
    frames = objects.decode(objects.read_object(item.path))
    if len(frames) != 1:
        raise Refused(Code.MULTI_FRAME)
    return frames[0]


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
