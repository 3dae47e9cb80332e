"""NIfTI files, read whole or refused: nothing is filled in, nothing is guessed.

Caps hold before anything is allocated; a compressed stream is read to its end, so that its checksum is verified; sform and qform must
agree where both are coded.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.nifti_header import (
    MAX_SHEAR,
    MAX_SIDE,
    MAX_VOXELS,
    affine_of,
    count_of,
    kind_of,
    offset_of,
    parse,
    scaling_of,
    shape_of,
)
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume

__all__ = ["MAX_SHEAR", "MAX_SIDE", "MAX_VOXELS", "count_volumes", "read_grid", "read_nifti"]

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
BEGINNING = 540
LARGE = 1 << 28  # bytes of voxels, from which on a file that shrank more than
MAX_RATIO = 250  # so many times is a bomb, unless its voxels are single bytes: empty masks do shrink a thousandfold
MAX_PADDING = 1 << 20
MAX_EXACT = 1 << 24  # the largest whole number up to which float32 has them all
MAX_VALUE = 1e30


def read_nifti(path: Path | str, allocate: Allocate = np.empty, number: int | None = None) -> Volume:
    """voxels (1, D, H, W) after scaling, int16 where that is exact, else float32, on the file's own grid in RAS+ mm; raises ``Refused``.
    ``allocate`` gives the array for the voxels; ``number`` is that of one volume of a 4-D file, which is refused without it."""
    path = Path(path)
    start, stream = _start(path)
    pair = _is_pair(path)
    with stream:
        header, size = parse(start, pair)
        shape, kind, offset, scaling = (
            shape_of(header, number is not None),
            kind_of(header),
            offset_of(header, size, pair),
            scaling_of(header),
        )
        which = (number or 0, count_of(header))
        if which[0] >= which[1]:
            raise Refused(Code.CHANGED)
        grid = Grid(shape, affine_of(header, shape))
        if not pair:
            return Volume(_voxels(path, start, stream, offset, kind, shape, scaling, allocate, which)[None], grid)
    image = _image_of(path)
    with _opened(image) as stream:
        return Volume(_voxels(image, b"", stream, offset, kind, shape, scaling, allocate, which)[None], grid)


def read_grid(path: Path | str, four_d: bool = False) -> Grid:
    """Where the voxels of a file lie, from its header alone; raises ``Refused``. ``four_d``: the file may hold several volumes."""
    start, stream = _start(Path(path))
    with stream:
        pair = _is_pair(Path(path))
        header, size = parse(start, pair)
        kind_of(header), offset_of(header, size, pair), scaling_of(header)
        shape = shape_of(header, four_d)
        return Grid(shape, affine_of(header, shape))


def count_volumes(path: Path | str) -> int:
    """How many volumes a file holds, by its header; raises ``Refused``."""
    start, stream = _start(Path(path))
    with stream:
        header = parse(start, _is_pair(Path(path)))[0]
        shape_of(header, four_d=True)
        return count_of(header)


def is_compressed(start: bytes) -> bool:
    return start[:2] == b"\x1f\x8b"


def _is_pair(path: Path) -> bool:
    return path.name.lower().endswith((".hdr", ".hdr.gz"))


def _image_of(path: Path) -> Path:
    """The voxels' file beside a header file."""
    stem = path.name[: path.name.lower().rindex(".hdr")]
    for ending in (".img", ".img.gz", ".IMG", ".IMG.GZ"):
        if (path.parent / f"{stem}{ending}").is_file():
            return path.parent / f"{stem}{ending}"
    raise Refused(Code.TRUNCATED)


def _opened(path: Path) -> Any:
    try:
        with path.open("rb") as plain:
            begin = plain.read(2)
        if not begin:
            raise Refused(Code.EMPTY)
        return gzip.open(path) if is_compressed(begin) else path.open("rb")
    except OSError:
        raise Refused(Code.UNREADABLE) from None


def _start(path: Path) -> tuple[bytes, Any]:
    """The first bytes, inflated, and the stream that goes on behind them."""
    stream = _opened(path)
    start = bytearray(BEGINNING)
    try:
        return bytes(start[: _inflate(stream, memoryview(start))]), stream
    except Refused:
        stream.close()
        raise


def _inflate(stream: Any, into: memoryview) -> int:
    """Fills the memory as far as the stream goes; a broken stream is refused."""
    seen = 0
    try:
        while seen < len(into):
            count = stream.readinto(into[seen : seen + (1 << 24)])
            if not count:
                break
            seen += count
        return seen
    except EOFError:
        raise Refused(Code.TRUNCATED) from None
    except (gzip.BadGzipFile, zlib.error):
        raise Refused(Code.CORRUPT) from None
    except OSError:
        raise Refused(Code.UNREADABLE) from None


def _voxels(
    path: Path, start: bytes, stream: Any, offset: int, kind: np.dtype, shape: tuple[int, ...], scaling: tuple[float, float],
    allocate: Allocate, which: tuple[int, int],
) -> np.ndarray:  # fmt: skip
    """(D, H, W) values of volume ``which[0]`` of ``which[1]``: read, scaled, and the end of the stream verified."""
    count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    _check_size(path, stream, offset + count * which[1], kind)
    plain = kind == np.dtype("i2") and scaling == (1.0, 0.0)
    stored = allocate(shape[::-1], np.int16) if plain else np.empty(shape[::-1], kind)
    _payload(start, stream, offset + count * which[0], memoryview(stored).cast("B"), count * (which[1] - 1 - which[0]))
    values = stored if plain else _scaled(stored, scaling, allocate)
    return values.transpose(2, 1, 0)


def _check_size(path: Path, stream: Any, expected: int, kind: np.dtype) -> None:
    """Before anything is allocated: whether the file can hold what its header claims."""
    size = path.stat().st_size
    if not isinstance(stream, gzip.GzipFile):
        if size < expected:
            raise Refused(Code.TRUNCATED)
    elif expected > LARGE and expected > (MAX_RATIO if kind.itemsize > 1 else 1100) * size:
        raise Refused(Code.TOO_LARGE)


def _payload(start: bytes, stream: Any, offset: int, into: memoryview, later: int) -> None:
    """The voxels' bytes; behind them and ``later`` bytes of other volumes the stream must end, zero padding allowed, and its checksum
    must hold."""
    _skip(stream, offset - len(start))
    behind = start[offset : offset + len(into)]
    into[: len(behind)] = behind
    if _inflate(stream, into[len(behind) :]) < len(into) - len(behind):
        raise Refused(Code.TRUNCATED)
    _skip(stream, later - max(0, len(start) - offset - len(into)))
    rest, seen = start[offset + len(into) + later :], 0
    block = bytearray(1 << 16)
    while True:
        if any(rest):
            raise Refused(Code.CORRUPT)
        seen += len(rest)
        if seen > MAX_PADDING:
            raise Refused(Code.TOO_LARGE)
        rest = block[: _inflate(stream, memoryview(block))]
        if not rest:
            return


def _skip(stream: Any, count: int) -> None:
    block = memoryview(bytearray(min(max(count, 0), 1 << 20)))
    while count > 0:
        if _inflate(stream, block[:count]) < min(count, len(block)):
            raise Refused(Code.TRUNCATED)
        count -= len(block)


def _scaled(stored: np.ndarray, scaling: tuple[float, float], allocate: Allocate) -> np.ndarray:
    """stored * slope + inter, plane by plane."""
    slope, inter = scaling
    whole = stored.dtype.kind in "iu" and slope.is_integer() and inter.is_integer()
    if whole:
        least, most = sorted(int(bound) * int(slope) + int(inter) for bound in (stored.min(), stored.max()))
        if max(abs(least), abs(most)) > MAX_EXACT:
            raise Refused(Code.DATA_TYPE)
        if least >= -32768 and most <= 32767:
            out = allocate(stored.shape, np.int16)
            for place, plane in zip(out, stored, strict=True):
                place[...] = plane if scaling == (1.0, 0.0) else plane.astype(np.int64) * int(slope) + int(inter)
            return out
    out = allocate(stored.shape, np.float32)
    for place, plane in zip(out, stored, strict=True):
        if plane.dtype.kind == "f" and not (np.abs(plane) < MAX_VALUE).all():
            raise Refused(Code.NOT_FINITE)
        values = plane if scaling == (1.0, 0.0) else plane.astype(np.float64) * slope + inter
        if not (np.abs(values) < MAX_VALUE).all():
            raise Refused(Code.NOT_FINITE)
        place[...] = values
    return out
