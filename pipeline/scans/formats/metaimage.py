"""MetaImage files (.mha, .mhd), and NRRD by its first bytes: every word of the header that moves or scales a voxel is read or refused.

Format: itk.org/Wiki/MetaIO/Documentation. A row of TransformMatrix is the direction of one axis of the array, in DICOM's LPS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.dicom.geometry import LPS_TO_RAS
from pipeline.scans.formats import nrrd
from pipeline.scans.formats.detached import beside
from pipeline.scans.formats.header_text import MAX_LINES, line_of, numbers, wholes
from pipeline.scans.formats.inflating import unzipped
from pipeline.scans.formats.payload import Allocate, Stored, check_count, check_shape, check_size, one_of, read_voxels, skip
from pipeline.scans.placement import grid_of
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4",
    "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
SYNONYMS = {
    "Position": "Offset", "Origin": "Offset", "Rotation": "TransformMatrix", "Orientation": "TransformMatrix",
    "BinaryDataByteOrderMSB": "ElementByteOrderMSB",
}  # fmt: skip
KNOWN = {
    "ObjectType", "NDims", "BinaryData", "ElementByteOrderMSB", "CompressedData", "CompressedDataSize", "TransformMatrix", "Offset",
    "CenterOfRotation", "DistanceUnits", "AnatomicalOrientation", "ElementSpacing", "ElementSize", "DimSize", "HeaderSize",
    "ElementNumberOfChannels", "ElementType", "ElementDataFile", "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset",
}  # fmt: skip
MM = {"": 1.0, "?": 1.0, "mm": 1.0, "cm": 10.0, "um": 0.001}
FROM = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "I": (2, 1), "S": (2, -1)}  # letter: where an LPS axis comes from
MAX_SKIP = 1 << 24


@dataclass(frozen=True)
class MetaImage:
    """What a header says of its voxels; ``skip`` is -1 where they are the last bytes of their file, ``data`` empty where they follow."""

    stored: Stored
    grid: Grid
    is_packed: bool
    packed_bytes: int | None
    skip: int
    data: str


def read_metaimage(path: Path | str, allocate: Allocate = np.empty, number: int | None = None) -> Volume:
    """voxels (1, D, H, W), int16 where that is exact, else float32, on the file's own grid in RAS+ mm; raises ``Refused``. ``number`` is
    that of one volume of a 4-D file, which is refused without it."""
    path = Path(path)
    try:
        read_head, read_rest = (nrrd.read_header, nrrd.read_data) if _is_nrrd(path) else (_header, _voxels)
        with path.open("rb") as stream:
            header = read_head(stream)
            header = replace(header, stored=one_of(header.stored, number))
            if not header.data:
                return Volume(read_rest(path, stream, header, allocate), header.grid)
        data = beside(path, header.data)
        with data.open("rb") as stream:
            return Volume(read_rest(data, stream, header, allocate), header.grid)
    except OSError:
        raise Refused(Code.UNREADABLE) from None


def read_grid(path: Path | str, four_d: bool = False) -> Grid:
    """Where the voxels of a file lie, from its header alone; raises ``Refused``. ``four_d``: the file may hold several volumes."""
    header = _any_header(Path(path))
    one_of(header.stored, 0 if four_d else None)
    return header.grid


def count_volumes(path: Path | str) -> int:
    """How many volumes a file holds, by its header; raises ``Refused``."""
    return _any_header(Path(path)).stored.count


def detached_of(path: Path) -> tuple[Path, ...]:
    """The file of the voxels, where they lie beside their header."""
    name = _any_header(path).data
    return (beside(path, name),) if name else ()


def _any_header(path: Path) -> Any:
    try:
        is_nrrd = _is_nrrd(path)
        with path.open("rb") as stream:
            return nrrd.read_header(stream) if is_nrrd else _header(stream)
    except OSError:
        raise Refused(Code.UNREADABLE) from None


def _is_nrrd(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"NRRD"


def _voxels(path: Path, stream: Any, header: MetaImage, allocate: Allocate) -> np.ndarray:
    begin, size = stream.tell() + max(0, header.skip), path.stat().st_size
    if header.skip < 0:
        begin = max(0, size - header.stored.total_bytes)
    check_size(size - begin, header.is_packed, header.stored)
    if header.packed_bytes not in (None, size - begin):
        raise Refused(Code.TRUNCATED if size - begin < header.packed_bytes else Code.CORRUPT)
    if begin > stream.tell():
        skip(stream, begin - stream.tell()) if header.skip >= 0 else stream.seek(begin)
    return read_voxels(unzipped(stream) if header.is_packed else stream, header.stored, allocate)[None]


def _header(stream: Any) -> MetaImage:
    words = _words(stream)
    if words.get("ObjectType", "Image") != "Image":
        raise Refused(Code.BAD_HEADER)
    if not _flag(words, "BinaryData", True):
        raise Refused(Code.TRANSFER_SYNTAX)
    if wholes(words.get("ElementNumberOfChannels", "1")) != [1]:
        raise Refused(Code.DATA_TYPE)
    sides = wholes(words.get("DimSize", ""))
    if len(sides) not in (3, 4) or wholes(words.get("NDims", "")) != [len(sides)]:
        raise Refused(Code.DIMENSIONS)
    shape, count = check_shape(sides[:3]), check_count(*sides[3:] or [1])
    kind = TYPES.get(words.get("ElementType", ""))
    if kind is None:
        raise Refused(Code.DATA_TYPE)
    if "ElementByteOrderMSB" not in words and kind[1] != "1":
        raise Refused(Code.BAD_HEADER)  # the format would have this machine's order, whatever machine wrote it
    slope, inter = (words.get(f"ElementToIntensityFunction{name}", plain) for name, plain in (("Slope", "1"), ("Offset", "0")))
    if (numbers(slope, 1)[0], numbers(inter, 1)[0]) != (1, 0):
        raise Refused(Code.SCALING)  # no two readers agree on whether to apply it
    stored = Stored(shape, np.dtype(kind).newbyteorder(">" if _flag(words, "ElementByteOrderMSB", False) else "<"), count=count)
    is_packed, data = _flag(words, "CompressedData", False), words["ElementDataFile"]
    data = "" if data.upper() == "LOCAL" else data
    (skipped,) = wholes(words.get("HeaderSize", "0"))[:1]
    if not -1 <= skipped <= MAX_SKIP or (skipped and (is_packed or not data)):
        raise Refused(Code.BAD_HEADER)
    packed = wholes(words.get("CompressedDataSize", ""))[0] if is_packed else None
    return MetaImage(stored, grid_of(shape, _affine(words, len(sides))), is_packed, packed, skipped, data)


def _words(stream: Any) -> dict[str, str]:
    """Known words by name, each once; the last one is ElementDataFile, behind which voxels may begin."""
    words: dict[str, str] = {}
    for _ in range(MAX_LINES):
        line = line_of(stream)
        if line is None:
            raise Refused(Code.TRUNCATED)
        name, mark, value = (part.strip() for part in line.partition("="))
        if not mark:
            raise Refused(Code.BAD_HEADER)
        name = SYNONYMS.get(name, name)
        if name in KNOWN and words.setdefault(name, value) != value:
            raise Refused(Code.BAD_HEADER)
        if name == "ElementDataFile":
            return words
    raise Refused(Code.BAD_HEADER)


def _flag(words: dict[str, str], name: str, default: bool) -> bool:
    found = {"True": True, "False": False, "": default}.get(words.get(name, ""))
    if found is None:
        raise Refused(Code.BAD_HEADER)
    return found


def _affine(words: dict[str, str], num_axes: int) -> np.ndarray:
    """Index to RAS+ mm. A fourth axis counts volumes: it must neither turn into the other three nor move them."""
    spacing = words.get("ElementSpacing", words.get("ElementSize"))
    if spacing is None:
        raise Refused(Code.PIXEL_SPACING)
    if "TransformMatrix" not in words or "Offset" not in words:
        raise Refused(Code.ORIENTATION)
    unit = MM.get(words.get("DistanceUnits", ""))
    if unit is None:
        raise Refused(Code.BAD_HEADER)
    sides, offset = numbers(spacing, num_axes)[:3], numbers(words["Offset"], num_axes)[:3]
    matrix = numbers(words["TransformMatrix"], num_axes**2).reshape(num_axes, num_axes)
    turn, apart = matrix[:3, :3], matrix - np.eye(num_axes)
    if (sides <= 0).any():
        raise Refused(Code.PIXEL_SPACING)
    if apart[3:].any() or apart[:, 3:].any():
        raise Refused(Code.ORIENTATION)
    if np.abs(np.linalg.norm(turn, axis=1) - 1).max() > 1e-3:
        raise Refused(Code.ORIENTATION)  # a matrix that scales: readers differ on whether the spacing counts twice
    if numbers(words.get("CenterOfRotation", "0 " * num_axes), num_axes).any():
        raise Refused(Code.ORIENTATION_CONFLICT)
    letters = words.get("AnatomicalOrientation", "")
    _check_letters(letters[:3] if len(letters) == num_axes else letters, turn)
    affine = np.eye(4)
    affine[:3, :3] = turn.T * sides * unit
    affine[:3, 3] = offset * unit
    return LPS_TO_RAS @ affine


def _check_letters(letters: str, turn: np.ndarray) -> None:
    """AnatomicalOrientation names where each axis comes from; some writers name where it goes to. Anything else contradicts the matrix."""
    if letters.strip("?") == "" or len(letters) != 3 or not set(letters) <= set(FROM):
        return
    along = [turn[axis, FROM[letter][0]] * FROM[letter][1] for axis, letter in enumerate(letters)]
    if not (min(along) > 0.1 or max(along) < -0.1):
        raise Refused(Code.ORIENTATION_CONFLICT)
