"""Siemens' CSA header: named values in a private element of MR images before the XA software. Always little endian.

A header is a count of tags, and each tag a name, a multiplicity, a type and items of text. The newer form (CSA2) begins with ``SV10``. Of
the older one (CSA1) readers disagree whether an item's first word is its length (GDCM), or its length and the number of items of the first
tag (SPM): it is read where only one of the two leads to the end, or both say the same.
Layout: https://nipy.org/nibabel/dicom/siemens_csa.html.
"""

from __future__ import annotations

import re
import struct

from pipeline.scans.quarantine import Code, Refused

Values = dict[str, tuple[str, ...]]
MAX_BYTES = 1 << 22
MAX_TAGS, MAX_ITEMS = 1000, 1000
MARKS = (77, 205)
_COUNT, _TAG, _ITEM = struct.Struct("<II"), struct.Struct("<64si4siii"), struct.Struct("<4i")
_NAME, _TYPE = re.compile(rb"([A-Za-z0-9_-]{1,63})\0"), re.compile(rb"[A-Z]{2}\0")


def read_csa(raw: bytes) -> Values:
    """Texts that are not empty, by the name of their tag. Raises ``Refused`` for a header that is cut off or of another layout."""
    if len(raw) > MAX_BYTES:
        raise Refused(Code.MOSAIC)
    begin, ways = (8, (False,)) if raw[:4] == b"SV10" else (0, (False, True))
    found = [_walked(raw, begin, is_less) for is_less in ways]
    read = [values for values in found if values is not None]
    if not read or any(values != read[0] for values in read):
        raise Refused(Code.MOSAIC)
    return read[0]


def _walked(raw: bytes, at: int, is_less: bool) -> Values | None:
    """Every tag from ``at`` on; None where that leads astray. ``is_less``: words of length count the first tag's items too."""
    values: Values = {}
    try:
        number, mark = _COUNT.unpack_from(raw, at)
        if not 0 < number <= MAX_TAGS or mark != MARKS[0]:
            return None
        at, less = at + _COUNT.size, None
        for _ in range(number):
            name, _, kind, _, items, mark = _TAG.unpack_from(raw, at)
            named = _NAME.match(name)
            if named is None or not _TYPE.match(kind) or not 0 <= items <= MAX_ITEMS or mark not in MARKS:
                return None
            less = (items if is_less else 0) if less is None else less
            texts, at = _items(raw, at + _TAG.size, items, less)
            word = named[1].decode("ascii")
            if word in values:
                return None
            values[word] = tuple(text for text in texts if text)
    except (struct.error, ValueError):
        return None
    return values


def _items(raw: bytes, at: int, number: int, less: int) -> tuple[list[str], int]:
    """(texts, where the next tag begins); raises ValueError where an item leaves the header."""
    texts = []
    for _ in range(number):
        length, _, mark, _ = _ITEM.unpack_from(raw, at)
        at, length = at + _ITEM.size, length - less
        if mark not in MARKS or length < 0 or at + length > len(raw):
            raise ValueError
        text = raw[at : at + length].partition(b"\0")[0].decode("ascii").strip()
        if not text.isprintable():
            raise ValueError
        texts.append(text)
        at += (length + 3) // 4 * 4
    return texts, at
