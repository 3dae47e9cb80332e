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
from pipeline.scans.nifti_header import MAX_SHEAR, MAX_SIDE, MAX_VOXELS, affine_of, kind_of, offset_of, parse, scaling_of, shape_of
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume

__all__ = ["MAX_SHEAR", "MAX_SIDE", "MAX_VOXELS", "read_grid", "read_nifti"]

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
BEGINNING = 540
LARGE = 1 << 28  # bytes of voxels, from which on a file that shrank more than
MAX_RATIO = 250  # so many times is a bomb, unless its voxels are single bytes: empty masks do shrink a thousandfold
MAX_PADDING = 1 << 20
MAX_EXACT = 1 << 24  # the largest whole number up to which float32 has them all
MAX_VALUE = 1e30


def read_nifti(path: Path | str, allocate: Allocate = np.empty) -> Volume:
    """voxels (1, D, H, W) after scaling, int16 where that is exact, else float32, on the file's own grid in RAS+ mm; raises ``Refused``.
    ``allocate`` gives the array for the voxels."""
    path = Path(path)
    start, stream = _start(path)
    pair = _is_pair(path)
    with stream:
        header, size = parse(start, pair)
        shape, kind, offset, scaling = shape_of(header), kind_of(header), offset_of(header, size, pair), scaling_of(header)
        grid = Grid(shape, affine_of(header, shape))
        if not pair:
            return Volume(_voxels(path, start, stream, offset, kind, shape, scaling, allocate)[None], grid)
    image = _image_of(path)
    with _opened(image) as stream:
        return Volume(_voxels(image, b"", stream, offset, kind, shape, scaling, allocate)[None], grid)


def read_grid(path: Path | str) -> Grid:
    """Where the voxels of a file lie, from its header alone; raises ``Refused``."""
    start, stream = _start(Path(path))
    with stream:
        pair = _is_pair(Path(path))
        header, size = parse(start, pair)
        kind_of(header), offset_of(header, size, pair), scaling_of(header)
        shape = shape_of(header)
        return Grid(shape, affine_of(header, shape))


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
    allocate: Allocate,
) -> np.ndarray:  # fmt: skip
    """(D, H, W) values: read, scaled, and the end of the stream verified."""
    count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    _check_size(path, stream, offset + count, kind)
    plain = kind == np.dtype("i2") and scaling == (1.0, 0.0)
    stored = allocate(shape[::-1], np.int16) if plain else np.empty(shape[::-1], kind)
    _payload(start, stream, offset, memoryview(stored).cast("B"))
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


def _payload(start: bytes, stream: Any, offset: int, into: memoryview) -> None:
    """The voxels' bytes; then the stream must end, zero padding allowed, and its checksum must hold."""
    if len(start) < offset:
        gap = bytearray(offset - len(start))
        if _inflate(stream, memoryview(gap)) < len(gap):
            raise Refused(Code.TRUNCATED)
    behind = start[offset : offset + len(into)]
    into[: len(behind)] = behind
    if _inflate(stream, into[len(behind) :]) < len(into) - len(behind):
        raise Refused(Code.TRUNCATED)
    rest, seen = start[offset + len(into) :], 0
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
