"""The wanted elements of big endian and odd DICOM files, through pydicom."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from pipeline.scans.dicom.objects import read_object
from pipeline.scans.dicom.wanted import IMPLICIT, WANTED, Elements, numbers_of
from pipeline.scans.quarantine import Code, Refused


def elements_by_pydicom(path: Path) -> Elements:
    """For big endian and odd files: the same values, slower; None for ``raw`` ones, whose bytes are lost."""
    header = read_object(path, pixels=False)
    meta = getattr(header, "file_meta", None)
    values: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, (name, kind) in WANTED.items():
            try:
                value = header.get(tag)
                if value is not None and value.value is not None and value.value != "":
                    values[name] = _converted(value.value, kind)
            except Exception:  # pydicom reads an element when it is asked for, and then raises what it likes
                raise Refused(Code.CORRUPT) from None
    return Elements(values, str(getattr(meta, "TransferSyntaxUID", "") or IMPLICIT), None)


def _converted(value: Any, kind: str) -> Any:
    many = isinstance(value, (list, tuple)) or hasattr(value, "append")
    if kind == "short":
        return int(value) & 0xFFFF
    if kind in ("numbers", "doubles", "shorts"):
        return numbers_of(value if many else [value])
    if kind == "raw":
        return None
    if kind == "present":
        return True
    words = tuple(str(word) for word in value) if many else (str(value),)
    return words if kind == "texts" else "\\".join(words)
