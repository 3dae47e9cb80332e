"""Chosen elements of a DICOM file and where its pixels lie, read in one pass without building objects.

Little endian files, explicit or implicit, are scanned here; whatever this scan balks at goes to pydicom. Which elements, and as what:
``wanted``. Layout: PS3.5 section 7, PS3.10 section 7.1.
"""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import Any

from pipeline.scans.dicom.wanted import ARRAYS, IMPLICIT, WANTED, Elements, numbers_of
from pipeline.scans.quarantine import Code, Refused

LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
SHORT = frozenset((b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST",
                   b"TM", b"UI", b"UL", b"US"))  # fmt: skip
EXPLICIT, BIG, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF
BEGINNING = 1 << 15
MAX_HEADER = 1 << 28
MAX_TAIL = 1 << 24
MAX_DEPTH = 64
_PAIR, _LONG, _SHORT = struct.Struct("<HH").unpack_from, struct.Struct("<I").unpack_from, struct.Struct("<H").unpack_from


class Odd(Exception):
    """The scan does not understand the file; pydicom may."""


def read_elements(path: Path) -> Elements:
    """The wanted elements of one file; raises ``Refused``."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size == 0:
                raise Refused(Code.EMPTY)
            data = b""
            for much in (BEGINNING, 32 * BEGINNING, MAX_HEADER):
                data += stream.read(much)
                try:
                    found = _scan(data, size)
                    _check_tail(stream, found, size)
                    return found
                except (struct.error, IndexError):
                    if size <= len(data):
                        break
        return _by_pydicom(path)
    except Odd:
        return _by_pydicom(path)
    except OSError:
        raise Refused(Code.UNREADABLE) from None


def _scan(data: bytes, size: int) -> Elements:
    offset, syntax = _meta(data)
    if syntax == DEFLATED:
        raise Refused(Code.DEFLATED)
    if syntax == BIG:
        raise Odd
    explicit = data[offset + 4 : offset + 6] in LONG or data[offset + 4 : offset + 6] in SHORT
    values: dict[int, bytes] = {}
    while offset < size:
        tag, kind, length, start = _element(data, offset, explicit)
        if tag >> 16 == 2:
            raise Refused(Code.CORRUPT)  # the file's meta information was broken off before its end
        if tag == PIXEL_DATA:
            return _finished(values, syntax, start, length, size)
        if length == UNDEFINED:
            offset = _behind(data, start, explicit and kind != b"UN")
            length = offset - start
        else:
            offset = start + length
        if tag in WANTED:
            if tag in values:
                raise Refused(Code.CORRUPT)
            if offset > len(data):
                raise IndexError
            values[tag] = data[start : start + (length if WANTED[tag][1] == "raw" else min(length, 4096))]
        if offset > size:
            raise Refused(Code.TRUNCATED if data[128:132] == b"DICM" else Code.CORRUPT)
    return Elements(_values(values), syntax, None)


def _meta(data: bytes) -> tuple[int, str]:
    """Where the data set begins, and its transfer syntax; implicit little endian where nothing says so."""
    offset = 132 if data[128:132] == b"DICM" else 0
    syntax = ""
    while data[offset : offset + 2] == b"\x02\x00":
        tag, _, length, start = _element(data, offset, True)
        if tag == 0x00020010:
            syntax = data[start : start + length].decode("ascii", "replace").rstrip("\0 ")
        offset = start + length
    if not syntax:
        syntax = EXPLICIT if data[offset + 4 : offset + 6] in SHORT else IMPLICIT
    return offset, syntax


def _element(data: bytes, offset: int, explicit: bool) -> tuple[int, bytes, int, int]:
    """(tag, value representation, length, where the value starts)."""
    group, element = _PAIR(data, offset)
    tag = group << 16 | element
    if not explicit or group == 0xFFFE:
        return tag, b"", _LONG(data, offset + 4)[0], offset + 8
    kind = data[offset + 4 : offset + 6]
    if kind in SHORT:
        return tag, kind, _SHORT(data, offset + 6)[0], offset + 8
    if kind in LONG:
        return tag, kind, _LONG(data, offset + 8)[0], offset + 12
    raise Odd


def _behind(data: bytes, offset: int, explicit: bool) -> int:
    """The offset behind a sequence of undefined length, whatever is nested in it."""
    ends = [0xFFFEE0DD]
    while ends:
        tag, kind, length, start = _element(data, offset, explicit)
        offset = start
        if tag == ends[-1]:
            ends.pop()
        elif length != UNDEFINED:
            offset += length
        elif len(ends) >= MAX_DEPTH:
            raise Refused(Code.CORRUPT)
        elif kind == b"UN":
            raise Odd
        else:
            ends.append(0xFFFEE00D if tag == 0xFFFEE000 else 0xFFFEE0DD)
        if offset > len(data):
            raise IndexError
    return offset


def _finished(values: dict[int, bytes], syntax: str, start: int, length: int, size: int) -> Elements:
    native = syntax in (EXPLICIT, IMPLICIT)
    if native and length == UNDEFINED:
        raise Refused(Code.CORRUPT)
    if length != UNDEFINED and start + length > size:
        raise Refused(Code.TRUNCATED)
    return Elements(_values(values), syntax, (start, length) if native else None)


def _check_tail(stream: Any, found: Elements, size: int) -> None:
    """Behind native pixels stand whole elements, zeros or nothing: a byte that was put in or taken out would shift every voxel."""
    if found.pixels is None or sum(found.pixels) == size:
        return
    stream.seek(sum(found.pixels))
    rest, at = stream.read(MAX_TAIL), 0
    if len(rest) == MAX_TAIL or not any(rest):
        return
    while at < len(rest):
        try:
            tag, kind, length, start = _element(rest, at, rest[at + 4 : at + 6] in LONG or rest[at + 4 : at + 6] in SHORT)
            at = _behind(rest, start, kind not in (b"", b"UN")) if length == UNDEFINED else start + length
        except (struct.error, IndexError, Odd):
            raise Refused(Code.CORRUPT) from None
        if tag <= PIXEL_DATA or at > len(rest):
            raise Refused(Code.CORRUPT)


def _values(found: dict[int, bytes]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for tag, raw in found.items():
        name, kind = WANTED[tag]
        if raw:
            values[name] = raw if kind == "raw" else _value(raw, kind)
    if "SpecificCharacterSet" in values:
        for name in ("PatientID", "IssuerOfPatientID"):
            if not values.get(name, "").isascii():
                values[name] = _decoded(values[name].encode("latin-1"), values["SpecificCharacterSet"])
    return values


def _value(raw: bytes, kind: str) -> Any:
    if kind == "short":
        if len(raw) < 2:
            raise Refused(Code.BAD_HEADER)
        return _SHORT(raw)[0]
    if kind in ARRAYS:
        letter, size = ARRAYS[kind]
        return struct.unpack_from(f"<{len(raw) // size}{letter}", raw) if len(raw) % size == 0 else None
    text = raw.decode("latin-1").strip("\0 ")
    if kind == "texts":
        return tuple(word.strip() for word in text.split("\\"))
    if kind == "numbers":
        return numbers_of(text.split("\\"))
    return text


def _decoded(raw: bytes, charsets: tuple[str, ...]) -> str:
    from pydicom.charset import convert_encodings, decode_bytes

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode_bytes(raw, convert_encodings(list(charsets)), {"\\", "^", "="})
    except Exception:  # an unknown character set must not decide whether a scan is read
        return raw.decode("latin-1")


def _by_pydicom(path: Path) -> Elements:
    from pipeline.scans.dicom.odd import elements_by_pydicom

    return elements_by_pydicom(path)
