"""DICOM objects through pydicom: what is compressed, big endian, multi-frame or odd. Slower than ``elements``, and as strict."""

from __future__ import annotations

import logging
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.scans.quarantine import Code, Refused

JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
JPEG_LS = JPEG[2:]
FRAMES_OF_SIZE = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)  # JPEG and JPEG-LS markers that state the size: ISO 10918-1 B.2.2, ISO 14495-1 C.2.2
MAX_FRAMES = 10_000


def read_object(path: Path, pixels: bool = True) -> Any:
    """The data set; raises ``Refused``. pydicom's warnings quote values of the file, so they are kept off the log."""
    import pydicom
    from pydicom.filereader import read_file_meta_info

    logging.getLogger("pydicom").disabled = True
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as stream:
                preamble = stream.read(132)[128:] == b"DICM"
            if preamble and str(read_file_meta_info(path).get("TransferSyntaxUID", "")) == "1.2.840.10008.1.2.1.99":
                raise Refused(Code.DEFLATED)
            return pydicom.dcmread(path, stop_before_pixels=not pixels, force=not preamble)
    except Refused:
        raise
    except OSError:
        raise Refused(Code.UNREADABLE) from None
    except Exception:  # pydicom raises what it likes on damaged files, RecursionError among them
        raise Refused(Code.CORRUPT) from None


def decode(dataset: Any) -> np.ndarray:
    """(frames, rows, columns) stored whole numbers; what cannot be decoded whole is refused."""
    import pydicom

    if "PixelData" not in dataset:
        raise Refused(Code.TRUNCATED)
    meta = getattr(dataset, "file_meta", None)
    if meta is None or "TransferSyntaxUID" not in meta:
        dataset.file_meta = meta or pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        expected = frames * int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
        compressed = syntax.is_compressed
    except (AttributeError, TypeError, ValueError):
        raise Refused(Code.BAD_HEADER) from None
    if not 1 <= frames <= MAX_FRAMES:
        raise Refused(Code.MULTI_FRAME)
    if compressed:
        _check_items(dataset.PixelData)
        _check_streams(dataset, str(syntax), frames)
    elif len(dataset.PixelData) < expected:
        raise Refused(Code.TRUNCATED)
    elif len(dataset.PixelData) > expected + expected % 2:
        raise Refused(Code.CORRUPT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = np.asarray(dataset.pixel_array)
    except MemoryError:
        raise Refused(Code.TOO_LARGE) from None
    except (RuntimeError, NotImplementedError, ModuleNotFoundError):
        raise Refused(_undecoded(syntax)) from None
    except Exception:  # decoders raise what they like
        raise Refused(Code.DECODER) from None
    stored = stored.reshape(-1, *stored.shape[-2:])
    if stored.shape != (frames, int(dataset.Rows), int(dataset.Columns)):
        raise Refused(Code.DECODER)
    return stored


def _undecoded(syntax: Any) -> Code:
    """Whether a decoder is missing here, or one is there and failed."""
    from pydicom.pixels import get_decoder

    try:
        return Code.DECODER if get_decoder(syntax).is_available else Code.TRANSFER_SYNTAX
    except NotImplementedError:
        return Code.TRANSFER_SYNTAX


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


def _check_streams(dataset: Any, syntax: str, frames: int) -> None:
    """Every frame's own stream must state the size that the header states."""
    if syntax not in JPEG2000 + JPEG:
        return
    from pydicom.encaps import generate_frames

    size = int(dataset.Columns), int(dataset.Rows)
    try:
        streams = list(generate_frames(dataset.PixelData, number_of_frames=frames))
        stated = [_stated_size(stream, syntax) for stream in streams]
        plain = all(_is_plain_scan(stream, syntax == JPEG_LS[0]) for stream in streams if syntax in JPEG_LS)
    except (ValueError, struct.error, IndexError):
        raise Refused(Code.DECODER) from None
    if len(stated) != frames or any(own != size for own in stated) or not plain:
        raise Refused(Code.DECODER)


def _stated_size(stream: bytes, syntax: str) -> tuple[int, int]:
    """(columns, rows) from a codestream's own header."""
    if syntax in JPEG2000:  # ISO 15444-1 A.5.1: SOC, then SIZ
        at = stream.find(b"\xff\x4f\xff\x51")
        right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
        return right - left, bottom - top
    rows, columns = struct.unpack_from(">2H", stream, _segment(stream, FRAMES_OF_SIZE) + 3)
    return columns, rows


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
