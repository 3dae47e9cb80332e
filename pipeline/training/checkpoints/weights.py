"""Weights from a file: safetensors only, never a pickle, and looked at before the library opens it.

The format (github.com/huggingface/safetensors): 8 bytes little-endian length of a JSON header, the header, then the tensors' bytes. A
header may be 100 MB and name a million tensors; ours is capped, and its offsets must tile the rest of the file exactly.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

MAX_HEADER = 8 << 20
MAX_TENSORS = 50_000
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; one that is no safetensors, or a hostile one, is a ``ValueError`` that names it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: is no safetensors file ({error})") from error


def check(path: Path) -> None:
    """Refuses a file whose header is too large, no JSON, or does not describe the bytes behind it."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path}: is no safetensors file: its header would end behind the file")
        if length > MAX_HEADER:
            raise ValueError(f"{path}: its header has {length} bytes, more than the {MAX_HEADER} that are read; it is not opened")
        raw = stream.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: is no safetensors file: its header is no JSON") from None
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise ValueError(f"{path}: its header names no tensors, or more than {MAX_TENSORS}; it is not opened")
    end = 0
    for start, stop, name in sorted(_span(path, name, entry) for name, entry in header.items() if name != "__metadata__"):
        if start != end:
            raise ValueError(f"{path}: tensors overlap or leave a gap before {name[:80]!r}; it is not opened")
        end = stop
    if end != size - 8 - length:
        raise ValueError(f"{path}: its tensors take {end} bytes, but {size - 8 - length} follow the header; it is not opened")


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """(first byte, byte behind the last, name) of one entry, whose type and shape must say the same."""
    try:
        (start, stop), shape = entry["data_offsets"], entry["shape"]
        numbers = all(type(number) is int and number >= 0 for number in (start, stop, *shape))
        if numbers and stop - start == math.prod(shape) * SIZES[entry["dtype"]]:
            return start, stop, name
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{path}: the entry {name[:80]!r} of its header contradicts itself; it is not opened")
