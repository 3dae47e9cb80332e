"""NIfTI files, read whole or refused: nothing is filled in, nothing is guessed, and no other file is read in a file's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.formats.detached import beside
from pipeline.scans.formats.inflating import Gunzipped
from pipeline.scans.formats.nifti_header import affine_of, check_extensions, count_of, kind_of, offset_of, parse, scaling_of, shape_of
from pipeline.scans.formats.payload import Allocate, Stored, check_size, fill, one_of, read_voxels, skip
from pipeline.scans.placement import grid_of
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume

NIFTI_2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # how its header begins
MAX_HEADER_FILE = 1 << 24


def read_nifti(path: Path | str, allocate: Allocate = np.empty, number: int | None = None, placement: str = "") -> Volume:
    """voxels (1, D, H, W) after scaling, int16 where that is exact, else float32, on the file's own grid in RAS+ mm; raises ``Refused``.
    ``allocate`` gives the array for the voxels; ``number`` is that of one volume of a 4-D file, which is refused without it;
    ``placement`` as in ``affine_of``."""
    path = Path(path)
    with _opened(path) as stream:
        header, offset, grid, stored = _understood(stream, path, number, placement)
        if not _is_pair(path):
            check_extensions(skip(stream, offset), header.endianness)
            return Volume(_voxels(path, stream, stored, allocate), grid)
        check_extensions(_rest(stream), header.endianness)
    image = image_of(path)
    with _opened(image) as stream:
        skip(stream, offset)
        return Volume(_voxels(image, stream, stored, allocate), grid)


def read_grid(path: Path | str, four_d: bool = False, placement: str = "") -> Grid:
    """Where the voxels of a file lie, from its header alone; raises ``Refused``. ``four_d``: the file may hold several volumes."""
    with _opened(Path(path)) as stream:
        return _understood(stream, Path(path), 0 if four_d else None, placement)[2]


def count_volumes(path: Path | str) -> int:
    """How many volumes a file holds, by its header; raises ``Refused``."""
    with _opened(Path(path)) as stream:
        header = _header(stream, _is_pair(Path(path)))[0]
        shape_of(header, four_d=True)
        return count_of(header)


def detached_of(path: Path) -> tuple[Path, ...]:
    """The file of the voxels, where they lie beside their header."""
    return (image_of(path),) if _is_pair(path) else ()


def image_of(path: Path) -> Path:
    """The voxels' file beside a header file; two that could be it are a conflict."""
    stem = path.name[: path.name.lower().rindex(".hdr")]
    found = [path.parent / f"{stem}{ending}" for ending in (".img", ".img.gz", ".IMG", ".IMG.GZ")]
    found = [item for item in found if item.exists() or item.is_symlink()]
    if len(found) > 1 and not all(item.samefile(found[0]) for item in found):
        raise Refused(Code.CONFLICT)
    return beside(path, found[0].name if found else "")


def _is_pair(path: Path) -> bool:
    return path.name.lower().endswith((".hdr", ".hdr.gz"))


def _opened(path: Path) -> Any:
    try:
        with path.open("rb") as plain:
            begin = plain.read(2)
        if not begin:
            raise Refused(Code.EMPTY)
        stream = path.open("rb")
        return Gunzipped(stream) if begin == b"\x1f\x8b" else stream
    except OSError:
        raise Refused(Code.UNREADABLE) from None


def _header(stream: Any, pair: bool) -> tuple[Any, int]:
    """The header and its size; the stream then stands behind it."""
    begin = bytearray(540)
    seen = fill(stream, memoryview(begin)[:348])
    if bytes(begin[:4]) in NIFTI_2:
        seen += fill(stream, memoryview(begin)[348:])
    return parse(bytes(begin[:seen]), pair)


def _understood(stream: Any, path: Path, number: int | None, placement: str) -> tuple[Any, int, Grid, Stored]:
    """(header, bytes between it and the voxels, grid, how those of a volume are stored); the stream then stands behind the header."""
    pair = _is_pair(path)
    header, size = _header(stream, pair)
    shape = shape_of(header, four_d=number is not None)
    stored = one_of(Stored(shape, kind_of(header), *scaling_of(header), count=count_of(header)), number)
    offset = offset_of(header, size, pair)
    return header, offset if pair else offset - size, grid_of(shape, affine_of(header, shape, placement)), stored


def _voxels(path: Path, stream: Any, stored: Stored, allocate: Allocate) -> np.ndarray:
    """(1, D, H, W) from a stream that stands at the first voxel."""
    is_packed = isinstance(stream, Gunzipped)
    check_size(path.stat().st_size - (0 if is_packed else stream.tell()), is_packed, stored)
    return read_voxels(stream, stored, allocate)[None]


def _rest(stream: Any) -> bytes:
    """What stands behind the header in a file of its own, to the end, so that its checksum is verified."""
    rest = bytearray(MAX_HEADER_FILE)
    seen = fill(stream, memoryview(rest))
    if seen == len(rest):
        raise Refused(Code.TOO_LARGE)
    return bytes(rest[:seen])
