"""Siemens mosaics: the slices of an MR volume as tiles of one image, row by row in a square that is as wide as it must be.

How many tiles hold slices, and towards which side of the image plane they follow each other, stands in the CSA header alone; a mosaic
without one (XA software, many anonymisers) is refused, and so is one whose header contradicts itself. An image that calls itself a mosaic
but is of the matrix that was acquired is a slice like any other (``headers``). The position in the header is that
which an image of the mosaic's size would have around the first tile's centre: the tile's corner lies (mosaic - tile) / 2 pixels further.
Source: https://nipy.org/nibabel/dicom/dicom_mosaic.html.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pipeline.scans.dicom import objects
from pipeline.scans.dicom.csa import Values, read_csa
from pipeline.scans.dicom.geometry import axes
from pipeline.scans.dicom.headers import acquired_of
from pipeline.scans.dicom.pixels import Image
from pipeline.scans.dicom.slices import Slice
from pipeline.scans.dicom.wanted import numbers_of
from pipeline.scans.placement import MAX_SPACING_MM
from pipeline.scans.quarantine import Code, Refused

MAX_TILES = 1024
MAX_TURN = 1e-3  # between the header's normal and that of the image plane
SAME_MM = 1e-3


def tiles_of(mosaic: Slice) -> list[Slice]:
    """A slice for each tile that holds one, in the order of the tiles; ``frame`` is the tile's number. Raises ``Refused``."""
    dataset = objects.read_object(mosaic.path, pixels=False)
    csa = read_csa(_private(dataset, 0x0029, "SIEMENS CSA HEADER", 0x10) or b"")
    number, shape = _tiling(dataset, csa, mosaic.shape)
    row, column, normal = axes(np.asarray(mosaic.orientation))
    half_rows, half_columns = ((whole - part) / 2 for whole, part in zip(mosaic.shape, shape, strict=True))
    first = np.asarray(mosaic.position) + row * mosaic.spacing[1] * half_columns + column * mosaic.spacing[0] * half_rows
    step = normal * _side(csa, normal) * _distance(dataset, csa)
    return [
        replace(mosaic, instance=f"{tile:05d}", position=tuple(map(float, first + step * tile)), shape=shape, mosaic=False, frame=tile)
        for tile in range(number)
    ]


def images_of(mosaic: Image, tiles: Sequence[Slice], shape: tuple[int, int]) -> list[Image]:
    """The image of each tile of a mosaic of a shape (rows, columns). Raises ``Refused`` where tiles without a slice are not empty."""
    stored, (rows, columns) = mosaic.load(), tiles[0].shape
    cut = stored.reshape(shape[0] // rows, rows, shape[1] // columns, columns).transpose(0, 2, 1, 3)
    cut = cut.reshape(-1, rows, columns)
    empty = cut[len(tiles) :]
    if (empty != empty[:1, :1, :1]).any():
        raise Refused(Code.MOSAIC)
    return [Image(partial(cut.__getitem__, tile.frame), mosaic.coding, mosaic.is_raw) for tile in tiles]


def _private(dataset: Any, group: int, creator: str, element: int) -> Any:
    """The value of a private element, None where it or its block is absent."""
    try:
        return dataset.private_block(group, creator)[element].value
    except KeyError:
        return None
    except Exception:  # pydicom reads an element when it is asked for, and then raises what it likes
        raise Refused(Code.CORRUPT) from None


def _tiling(dataset: Any, csa: Values, shape: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """(number of slices, (rows, columns) of a tile); whatever else tells the number must agree."""
    stated = _numbers(csa, "NumberOfImagesInMosaic", 1)[0]
    number = int(stated)
    again = _private(dataset, 0x0019, "SIEMENS MR HEADER", 0x0A)
    times = len(csa.get("MosaicRefAcqTimes", ()))
    if number != stated or not 1 <= number <= MAX_TILES or again not in (None, number) or times not in (0, number):
        raise Refused(Code.MOSAIC)
    wide = math.isqrt(number - 1) + 1
    if shape[0] % wide or shape[1] % wide:
        raise Refused(Code.MOSAIC)
    tile = (shape[0] // wide, shape[1] // wide)
    acquired = _acquired(dataset, csa)
    if acquired is not None and min(tile) < acquired[0] and max(tile) < acquired[1]:
        raise Refused(Code.MOSAIC)  # a slice that was cut out of a mosaic, and would be cut again
    return number, tile


def _acquired(dataset: Any, csa: Values) -> tuple[int, int] | None:
    """Sides of the matrix that was acquired, the smaller first; no tile is smaller. In the CSA header as text, such as ``64p*64``."""
    try:
        public = acquired_of(dataset.get("AcquisitionMatrix"))
    except Exception:  # pydicom reads an element when it is asked for, and then raises what it likes
        raise Refused(Code.CORRUPT) from None
    text = re.fullmatch(r"(\d{1,4})[a-z]*\*(\d{1,4})[a-z]*", " ".join(csa.get("AcquisitionMatrixText", ())), re.ASCII)
    return public or (tuple(sorted(map(int, text.groups()))) if text else None)


def _side(csa: Values, normal: np.ndarray) -> int:
    """1 where slices follow each other along the image plane's own normal, -1 where against it."""
    stated = np.array(_numbers(csa, "SliceNormalVector", 3))
    for side in (1, -1):
        if np.abs(stated - side * normal).max() <= MAX_TURN:
            return side
    raise Refused(Code.MOSAIC)


def _distance(dataset: Any, csa: Values) -> float:
    """From slice to slice in mm."""
    try:
        public = dataset.get("SpacingBetweenSlices")
        found = [] if public is None else [float(public)]
    except Exception:  # pydicom reads an element when it is asked for, and then raises what it likes
        raise Refused(Code.CORRUPT) from None
    if csa.get("SpacingBetweenSlices"):
        found += _numbers(csa, "SpacingBetweenSlices", 1)
    if not found or not all(0 < distance <= MAX_SPACING_MM for distance in found) or max(found) - min(found) > SAME_MM:
        raise Refused(Code.MOSAIC)
    return found[0]


def _numbers(csa: Values, name: str, count: int) -> list[float]:
    found = numbers_of(csa.get(name, ()))
    if found is None or len(found) != count or not all(map(math.isfinite, found)):
        raise Refused(Code.MOSAIC)
    return list(found)
