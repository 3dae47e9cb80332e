"""NRRD files (teem.sourceforge.net/nrrd/format.html), attached or detached: raw, gzip or bzip2, on a grid whose space is stated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.formats.header_text import MAX_LINES, line_of, numbers, wholes
from pipeline.scans.formats.inflating import Gunzipped, unbzipped
from pipeline.scans.formats.nrrd_axes import Axes, axes_of, vectors_of
from pipeline.scans.formats.payload import Allocate, Stored, check_size, read_voxels, skip
from pipeline.scans.placement import grid_of
from pipeline.scans.quarantine import Code, Refused

KINDS = {
    "i1": "signed char,int8,int8_t", "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t",
    "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t", "i4": "int,signed int,int32,int32_t",
    "u4": "uint,unsigned int,uint32,uint32_t", "f4": "float", "f8": "double",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
}  # fmt: skip
TYPES = {name: kind for kind, names in KINDS.items() for name in names.split(",")}
TO_RAS = {"right-anterior-superior": (1, 1), "left-anterior-superior": (-1, 1), "left-posterior-superior": (-1, -1),
          "ras": (1, 1), "las": (-1, 1), "lps": (-1, -1)}  # fmt: skip
MM = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "\xb5m": 0.001, "\xc2\xb5m": 0.001}
ENCODINGS = {"raw": None, "gzip": Gunzipped, "gz": Gunzipped, "bzip2": unbzipped, "bz2": unbzipped}
FIELDS = {
    "dimension", "type", "blocksize", "encoding", "endian", "content", "oldmin", "oldmax", "min", "max", "datafile", "lineskip", "byteskip",
    "number", "sizes", "spacings", "thicknesses", "axismins", "axismaxs", "centerings", "labels", "units", "kinds", "sampleunits", "space",
    "spacedimension", "spaceunits", "spaceorigin", "spacedirections", "measurementframe",
}  # fmt: skip
NOT_BESIDE_SPACE = ("axismins", "axismaxs")
MAX_SKIP = 1 << 24
MAX_KEY = 64  # of a writer's own keys and values: none that counts is longer


@dataclass(frozen=True)
class Nrrd:
    """What a header says of its voxels; ``data`` is empty where they follow it."""

    stored: Stored
    grid: Grid
    encoding: str
    lines: int
    bytes: int
    data: str


def read_header(stream: Any) -> Nrrd:
    """From the start of a file; the stream then stands behind the header."""
    fields, keys = _fields(stream)
    try:
        axes = axes_of(fields, keys)
        kind = TYPES.get(fields["type"].lower())
        encoding = fields["encoding"].lower()
    except KeyError:
        raise Refused(Code.BAD_HEADER) from None
    if kind is None:
        raise Refused(Code.DATA_TYPE)
    if encoding not in ENCODINGS:
        raise Refused(Code.TRANSFER_SYNTAX)
    order = {"little": "<", "big": ">", "": "|"}.get(fields.get("endian", "").lower())
    if order is None or (order == "|" and kind[1] != "1"):
        raise Refused(Code.BAD_HEADER)
    lines, skipped = (_one(fields.get(name, "0")) for name in ("lineskip", "byteskip"))
    if not 0 <= lines <= MAX_LINES or not -1 <= skipped <= MAX_SKIP or (skipped < 0 and encoding != "raw"):
        raise Refused(Code.BAD_HEADER)
    stored = Stored(axes.shape, np.dtype(kind).newbyteorder(order), count=axes.count, blocks=axes.blocks)
    return Nrrd(stored, grid_of(axes.shape, _affine(fields, axes)), encoding, lines, skipped, fields.get("datafile", ""))


def read_data(path: Path, stream: Any, header: Nrrd, allocate: Allocate) -> np.ndarray:
    """voxels (1, D, H, W) from the file that holds them, whose stream stands behind the header, or at its start if that lies elsewhere."""
    for _ in range(header.lines):
        if line_of(stream) is None:
            raise Refused(Code.TRUNCATED)
    opened = ENCODINGS[header.encoding]
    begin, size = stream.tell(), path.stat().st_size
    if opened is None and header.bytes < 0:
        begin = max(begin, size - header.stored.total_bytes)
        stream.seek(begin)
    inside = stream if opened is None else opened(stream)
    skip(inside, max(0, header.bytes))
    check_size(size - (begin if opened else stream.tell()), opened is not None, header.stored)
    return read_voxels(inside, header.stored, allocate)[None]


def _fields(stream: Any) -> tuple[dict[str, str], dict[str, str]]:
    """(fields by name, without blanks in it; the writer's own values by key). A field may stand once, and none that is not NRRD's."""
    if not re.fullmatch(r"NRRD000[1-5]", line_of(stream) or ""):
        raise Refused(Code.BAD_HEADER)
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    for _ in range(MAX_LINES):
        line = line_of(stream)
        if line is None and "datafile" not in fields:
            raise Refused(Code.TRUNCATED)
        if not line:
            return fields, keys
        found = re.match(r"(.*?):([= ]|$)(.*)", line, re.DOTALL)
        if line.startswith("#"):
            continue
        if found and found[2] == "=":
            keys[found[1][:MAX_KEY]] = found[3][:MAX_KEY].strip()
            continue
        name = found[1].strip().lower().replace(" ", "").replace("centers", "centerings") if found else ""
        if name not in FIELDS or name in fields:
            raise Refused(Code.BAD_HEADER)
        fields[name] = found[3].strip()
    raise Refused(Code.BAD_HEADER)


def _affine(fields: dict[str, str], axes: Axes) -> np.ndarray:
    """Index to RAS+ mm. ``space origin`` is the centre of the first sample, whatever the centering of the axes."""
    space = TO_RAS.get(fields.get("space", "").lower())
    if space is None or "spaceorigin" not in fields or any(name in fields for name in NOT_BESIDE_SPACE):
        raise Refused(Code.ORIENTATION)
    if fields.get("spacedimension", "3") != "3":
        raise Refused(Code.ORIENTATION)
    vectors = vectors_of(fields["spacedirections"], _one(fields["dimension"]))
    affine = np.eye(4)
    try:
        for column, axis in enumerate(axes.space):
            affine[:3, column] = numbers(vectors[axis] or "", 3, ",")
        origin = re.fullmatch(r"\(([^()]*)\)", fields["spaceorigin"])
        affine[:3, 3] = numbers(origin[1] if origin else "", 3, ",")
    except Refused:
        raise Refused(Code.ORIENTATION) from None
    _check_spacings(fields, affine, axes)
    affine[:2] *= np.array(space)[:, None]
    affine[:3] *= _mm(fields, axes)
    return affine


def _check_spacings(fields: dict[str, str], affine: np.ndarray, axes: Axes) -> None:
    """Spacings beside directions are against the format; what only repeats them is let pass."""
    words = fields.get("spacings", "").split()
    for column, axis in enumerate(axes.space if words else []):
        if axis >= len(words):
            raise Refused(Code.BAD_HEADER)
        if words[axis].lower() == "nan":
            continue
        apart = abs(numbers(words[axis], 1)[0] - np.linalg.norm(affine[:3, column]))
        if apart * (axes.shape[column] - 1) > 0.1:
            raise Refused(Code.ORIENTATION_CONFLICT)


def _mm(fields: dict[str, str], axes: Axes) -> float:
    """Millimetres in the unit of the space, which is one for all its axes; that of the axis that counts volumes is no length."""
    found = set()
    for name in ("spaceunits", "units"):
        units = re.findall(r'"([^"]*)"', fields.get(name, ""))
        if name == "units" and len(units) == _one(fields["dimension"]):
            units = [units[axis] for axis in axes.space]
        for unit in units:
            if unit.strip().lower() not in MM:
                raise Refused(Code.BAD_HEADER)
            found.add(MM[unit.strip().lower()])
    if len(found) > 1:
        raise Refused(Code.BAD_HEADER)
    return found.pop() if found else 1.0


def _one(text: str) -> int:
    found = wholes(text)
    if len(found) != 1:
        raise Refused(Code.BAD_HEADER)
    return found[0]
