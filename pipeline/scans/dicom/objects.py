"""DICOM objects through pydicom: what is compressed, big endian, multi-frame or odd. Slower than ``elements``, and as strict."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.scans.dicom.codecs import decompressed
from pipeline.scans.quarantine import Code, Refused

MAX_FRAMES = 10_000


def read_object(path: Path, pixels: bool = True, only: Sequence[str] = ()) -> Any:
    """The data set, or ``only`` some of its elements, which is faster; raises ``Refused``. pydicom's warnings quote values of the file,
    so they are kept off the log."""
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
            return pydicom.dcmread(path, stop_before_pixels=not pixels, force=not preamble, specific_tags=list(only) or None)
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
    if not compressed and len(dataset.PixelData) < expected:
        raise Refused(Code.TRUNCATED)
    if not compressed and len(dataset.PixelData) > expected + expected % 2:
        raise Refused(Code.CORRUPT)
    stored = decompressed(dataset, str(syntax), frames) if compressed else _native(dataset)
    stored = stored.reshape(-1, *stored.shape[-2:])
    if stored.shape != (frames, int(dataset.Rows), int(dataset.Columns)):
        raise Refused(Code.DECODER)
    return stored


def _native(dataset: Any) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(dataset.pixel_array)
    except MemoryError:
        raise Refused(Code.TOO_LARGE) from None
    except Exception:  # pydicom raises what it likes
        raise Refused(Code.DECODER) from None
