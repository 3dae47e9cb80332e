"""Numbers and lines of the headers that are text (NRRD, MetaImage), read to the letter: a damaged digit is no number."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from pipeline.scans.quarantine import Code, Refused

MAX_LINE = 1 << 20
MAX_LINES = 10_000
WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)


def wholes(text: str) -> list[int]:
    """Whole numbers between blanks."""
    words = text.split()
    if not words or not all(WHOLE.fullmatch(word) for word in words):
        raise Refused(Code.BAD_HEADER)
    return [int(word) for word in words]


def numbers(text: str, count: int, between: str | None = None) -> np.ndarray:
    """So many finite numbers between blanks, or between other marks."""
    words = [word.strip() for word in text.split(between)]
    if len(words) != count or not all(len(word) < 64 and NUMBER.fullmatch(word) for word in words):
        raise Refused(Code.BAD_HEADER)
    found = np.array([float(word) for word in words])
    if not np.isfinite(found).all():
        raise Refused(Code.BAD_HEADER)
    return found


def line_of(stream: Any) -> str | None:
    """The next line without its end; None at the end of the file."""
    line = stream.readline(MAX_LINE)
    if len(line) == MAX_LINE:
        raise Refused(Code.BAD_HEADER)
    return line.decode("latin-1").rstrip("\r\n") if line else None
