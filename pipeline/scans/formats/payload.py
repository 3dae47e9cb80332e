"""Stored voxels, read whole or refused, for NIfTI, NRRD and MetaImage.

Caps hold before anything is allocated; a compressed stream is read to its end, so that its checksum is verified; behind the voxels only a
little zero padding may stand.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from isal import igzip_lib

from pipeline.scans.quarantine import Code, Refused

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
MAX_SIDE = 2048
MAX_VOXELS = 2**31
MAX_COUNT = 1 << 15  # volumes in a file: as many as NIfTI-1 can count
LARGE = 1 << 28  # bytes of voxels, from which on a file that shrank more than
MAX_RATIO = 250  # so many times is a bomb
LARGE_MASK = 1 << 30  # where voxels are single bytes, only from here on: empty masks do shrink a thousandfold,
MAX_RATIO_MASK = 1100  # and nothing that gzip makes shrinks more
MAX_PADDING = 1 << 20
STEP = 1 << 18  # bytes asked of a stream at once: they stay in the cache until they are copied
GATHER = 1 << 20  # bytes of whole blocks that are held at once, where arrays are interleaved
MAX_EXACT = 1 << 24  # the largest whole number up to which float32 has them all
MAX_VALUE = 1e30


@dataclass(frozen=True)
class Stored:
    """How voxels lie in a file: sides of the array (the first runs fastest), type with its byte order, value = stored * slope + inter;
    array ``number`` of ``count`` that follow each other without a gap: whole, or a piece of each in every one of ``blocks``."""

    shape: tuple[int, int, int]
    kind: np.dtype
    slope: float = 1.0
    inter: float = 0.0
    number: int = 0
    count: int = 1
    blocks: int = 1

    @property
    def num_bytes(self) -> int:
        """Of one array."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.kind.itemsize

    @property
    def total_bytes(self) -> int:
        """Of all arrays."""
        return self.num_bytes * self.count

    @property
    def is_plain(self) -> bool:
        return (self.slope, self.inter) == (1.0, 0.0)


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Three sides within the limits."""
    if len(shape) != 3 or min(shape) < 1:
        raise Refused(Code.DIMENSIONS)
    if max(shape) > MAX_SIDE or int(np.prod(shape, dtype=np.int64)) > MAX_VOXELS:
        raise Refused(Code.TOO_LARGE)
    return int(shape[0]), int(shape[1]), int(shape[2])


def check_count(count: int) -> int:
    """How many volumes a file may hold."""
    if count < 1:
        raise Refused(Code.DIMENSIONS)
    if count > MAX_COUNT:
        raise Refused(Code.TOO_LARGE)
    return count


def one_of(stored: Stored, number: int | None) -> Stored:
    """Volume ``number`` of a file; without a number the file must hold but one."""
    if number is None and stored.count > 1:
        raise Refused(Code.DIMENSIONS)
    if (number or 0) >= stored.count:
        raise Refused(Code.CHANGED)
    return replace(stored, number=number or 0)


def check_size(size: int, is_packed: bool, stored: Stored) -> None:
    """Before anything is allocated: whether ``size`` bytes on the disk can hold what the header claims."""
    claimed = stored.total_bytes
    if not is_packed:
        if size < claimed:
            raise Refused(Code.TRUNCATED)
        return
    is_mask = stored.kind.itemsize == 1
    if claimed > MAX_RATIO * size and claimed > (LARGE_MASK if is_mask else LARGE):
        raise Refused(Code.TOO_LARGE)
    if is_mask and claimed > MAX_RATIO_MASK * size and claimed > LARGE:
        raise Refused(Code.TOO_LARGE)


def read_voxels(stream: Any, stored: Stored, allocate: Allocate = np.empty) -> np.ndarray:
    """(D, H, W) values, int16 where that is exact, else float32; the stream stands at the first voxel of the first array
    and must end behind the last of the last, so that damage to one refuses all."""
    direct = stored.kind == np.dtype("<i2") and stored.is_plain
    raw = allocate(stored.shape[::-1], np.int16) if direct else np.empty(stored.shape[::-1], stored.kind)
    _fill_array(stream, stored, raw.reshape(stored.blocks, -1))
    _check_end(stream, stored)
    values = raw if direct else _scaled(raw, stored, allocate)
    return values.transpose(2, 1, 0)


def _fill_array(stream: Any, stored: Stored, pieces: np.ndarray) -> None:
    """One array by its pieces (blocks, values), and past those of all others."""
    whole = pieces[0].nbytes * stored.count
    if stored.blocks > 1 and whole <= GATHER:
        blocks = np.empty((GATHER // whole, stored.count, pieces.shape[1]), pieces.dtype)
        for first in range(0, stored.blocks, len(blocks)):
            part = blocks[: stored.blocks - first]
            _fill_all(stream, part)
            pieces[first : first + len(part)] = part[:, stored.number]
        return
    for piece in pieces:
        _pass(stream, piece.nbytes * stored.number)
        _fill_all(stream, piece)
        _pass(stream, piece.nbytes * (stored.count - 1 - stored.number))


def _fill_all(stream: Any, into: np.ndarray) -> None:
    if fill(stream, memoryview(into).cast("B")) < into.nbytes:
        raise Refused(Code.TRUNCATED)


def fill(stream: Any, into: memoryview) -> int:
    """Fills the memory as far as the stream goes; a broken stream is refused."""
    seen = 0
    try:
        while seen < len(into):
            count = stream.readinto(into[seen : seen + STEP])
            if not count:
                break
            seen += count
        return seen
    except EOFError:
        raise Refused(Code.TRUNCATED) from None
    except (zlib.error, igzip_lib.error):
        raise Refused(Code.CORRUPT) from None
    except OSError as error:  # gzip and bz2 raise it without a number for what is wrong with the bytes
        raise Refused(Code.CORRUPT if error.errno is None else Code.UNREADABLE) from None


def skip(stream: Any, count: int) -> bytearray:
    """The next bytes, all of them."""
    passed = bytearray(count)
    if fill(stream, memoryview(passed)) < count:
        raise Refused(Code.TRUNCATED)
    return passed


def _pass(stream: Any, count: int) -> None:
    """Reads bytes that nobody asked for, without keeping them."""
    block = memoryview(bytearray(min(count, 1 << 20)))
    while count > 0:
        wanted = min(count, len(block))
        if fill(stream, block[:wanted]) < wanted:
            raise Refused(Code.TRUNCATED)
        count -= wanted


def _check_end(stream: Any, stored: Stored) -> None:
    """Zero padding is allowed while it is smaller than any face of the array: more would fit a header that claims too few voxels."""
    most = min(MAX_PADDING, stored.num_bytes // max(stored.shape) - 1)
    block, seen = bytearray(1 << 16), 0
    while count := fill(stream, memoryview(block)):
        if any(block[:count]):
            raise Refused(Code.CORRUPT)
        seen += count
        if seen > most:
            raise Refused(Code.TOO_LARGE)


def _scaled(raw: np.ndarray, stored: Stored, allocate: Allocate) -> np.ndarray:
    """raw * slope + inter, plane by plane."""
    slope, inter = stored.slope, stored.inter
    if raw.dtype.kind in "iu" and slope.is_integer() and inter.is_integer() and max(abs(slope), abs(inter)) <= MAX_EXACT:
        least, most = sorted(int(bound) * int(slope) + int(inter) for bound in (raw.min(), raw.max()))
        if max(abs(least), abs(most)) > MAX_EXACT:
            raise Refused(Code.DATA_TYPE)
        if least >= -32768 and most <= 32767:
            out = allocate(raw.shape, np.int16)
            for place, plane in zip(out, raw, strict=True):
                place[...] = plane if stored.is_plain else plane.astype(np.int64) * int(slope) + int(inter)
            return out
    out = allocate(raw.shape, np.float32)
    for place, plane in zip(out, raw, strict=True):
        if plane.dtype.kind == "f" and not (np.abs(plane) < MAX_VALUE).all():
            raise Refused(Code.NOT_FINITE)
        values = plane if stored.is_plain else plane.astype(np.float64) * slope + inter
        if not (np.abs(values) < MAX_VALUE).all():
            raise Refused(Code.NOT_FINITE)
        place[...] = values
    return out
