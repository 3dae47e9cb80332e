"""Compressed pixel data: the one decoder that each transfer syntax has here, and what is checked of a stream before it is decoded.

Which other decoders pydicom finds must not decide what a file means, so they are named: pydicom's own for RLE (the strict one), CharLS for
JPEG-LS, OpenJPEG for JPEG 2000 (Pillow's where pylibjpeg-openjpeg is absent) and for high-throughput JPEG 2000, Pillow for 8-bit JPEG, and
GDCM, where it is installed, for lossless JPEG only. All of them run in the child process alone.
"""

from __future__ import annotations

import struct
import warnings
from typing import Any

import numpy as np

from pipeline.scans.quarantine import Code, Refused

RLE = "1.2.840.10008.1.2.5"
JPEG, JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"), ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS, JPEG2000 = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
HIGH_THROUGHPUT = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
DECODERS: dict[str, tuple[str, ...]] = {
    RLE: ("pydicom",),
    **dict.fromkeys(JPEG, ("pillow",)),
    **dict.fromkeys(JPEG_LOSSLESS, ("gdcm",)),
    **dict.fromkeys(JPEG_LS, ("pyjpegls",)),
    **dict.fromkeys(JPEG2000, ("pylibjpeg", "pillow")),
    **dict.fromkeys(HIGH_THROUGHPUT, ("pylibjpeg",)),
}
FRAMES_OF_SIZE = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)  # JPEG and JPEG-LS markers that state the size: ISO 10918-1 B.2.2, ISO 14495-1 C.2.2
END = b"\xff\xd9"  # of image (JPEG, JPEG-LS) and of codestream (JPEG 2000)


def decoder_of(syntax: str) -> str:
    """pydicom's name of the decoder; raises ``Refused`` where there is none here."""
    from pydicom.pixels import get_decoder

    there = get_decoder(syntax).available_plugins if syntax in DECODERS else ()
    found = next((name for name in DECODERS.get(syntax, ()) if name in there), None)
    if found is None:
        raise Refused(Code.TRANSFER_SYNTAX)
    return found


def decompressed(dataset: Any, syntax: str, frames: int) -> np.ndarray:
    """(frames, rows, columns) of a compressed object, or of one frame without the first axis; raises ``Refused``."""
    from pydicom.pixels import get_decoder

    name = decoder_of(syntax)
    if syntax == JPEG[1] and dataset.get("BitsStored", 8) > 8:
        raise Refused(Code.TRANSFER_SYNTAX)  # 12-bit lossy JPEG
    _check_items(dataset.PixelData)
    if syntax != RLE:
        _check_streams(dataset, syntax, frames, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(get_decoder(syntax).as_array(dataset, raw=True, decoding_plugin=name)[0])
    except MemoryError:
        raise Refused(Code.TOO_LARGE) from None
    except NotImplementedError:
        raise Refused(Code.TRANSFER_SYNTAX) from None
    except Exception:  # decoders raise what they like
        raise Refused(Code.DECODER) from None


def _check_items(data: bytes) -> None:
    """Encapsulated items one behind the other, with nothing between or behind them (PS3.5 A.4)."""
    at = 0
    while at < len(data):
        if len(data) - at < 8 or data[at : at + 4] not in (b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"):
            raise Refused(Code.DECODER)
        if data[at + 2] == 0xDD:
            return
        at += 8 + struct.unpack_from("<I", data, at + 4)[0]
    if at > len(data):
        raise Refused(Code.DECODER)


def _check_streams(dataset: Any, syntax: str, frames: int, name: str) -> None:
    """Every frame's own stream must be whole and state the size and the sign that the header states."""
    from pydicom.encaps import generate_frames

    try:
        size = int(dataset.Columns), int(dataset.Rows)
        streams = list(generate_frames(dataset.PixelData, number_of_frames=frames))
        headers = [_header(stream, syntax) for stream in streams]
        plain = all(_is_plain_scan(stream, syntax == JPEG_LS[0]) for stream in streams if syntax in JPEG_LS)
    except (ValueError, struct.error, IndexError):
        raise Refused(Code.DECODER) from None
    if len(headers) != frames or any(own[:2] != size for own in headers) or not plain or any(not _is_whole(stream) for stream in streams):
        raise Refused(Code.DECODER)
    signed = int(dataset.get("PixelRepresentation", 0))
    if name == "pillow" and syntax in JPEG2000 and any(own[2] and not signed for own in headers):
        raise Refused(Code.BAD_HEADER)  # Pillow would move such numbers by half of their range


def _is_whole(stream: bytes) -> bool:
    """Whether a stream ends; decoders fill what is missing with what they like. One byte of padding is allowed, and more are met."""
    return END in stream[-16:] and not stream[stream.rindex(END) + 2 :].strip(b"\0\xff")


def _header(stream: bytes, syntax: str) -> tuple[int, int, bool]:
    """(columns, rows, whether its numbers are signed) from a codestream's own header."""
    if syntax in JPEG2000 + HIGH_THROUGHPUT:  # ISO 15444-1 A.5.1: SOC, then SIZ
        at = stream.find(b"\xff\x4f\xff\x51")
        right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
        return right - left, bottom - top, bool(stream[at + 42] & 0x80)
    rows, columns = struct.unpack_from(">2H", stream, _segment(stream, FRAMES_OF_SIZE) + 3)
    return columns, rows, False


def _is_plain_scan(stream: bytes, is_lossless: bool) -> bool:
    """Of JPEG-LS: one component, no mapping table, interleaving or point transform, no error where none is allowed; decoders pass over
    such bytes, and differ (ISO 14495-1 C.2.3)."""
    length, components, _, table, near, interleave, transform = struct.unpack_from(">H6B", stream, _segment(stream, (0xDA,)))
    return (length, components, table, interleave, transform) == (8, 1, 0, 0, 0) and not (is_lossless and near)


def _segment(stream: bytes, markers: tuple[int, ...]) -> int:
    """Where the first segment of these markers begins, behind its marker."""
    offset = 2
    while stream[offset] == 0xFF:
        if stream[offset + 1] in markers:
            return offset + 2
        offset += 2 + struct.unpack_from(">H", stream, offset + 2)[0]
    raise ValueError
