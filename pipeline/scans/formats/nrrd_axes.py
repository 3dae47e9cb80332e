"""Which axes of an NRRD array run through the body, and which one counts volumes (teem.sourceforge.net/nrrd/format.html#kinds).

An axis counts volumes only where its kind says so: a list or times; or, in files of diffusion-weighted MR, the vector of as many gradients.
Every other kind of axis that runs nowhere makes one value of several numbers: a colour, a vector, a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.scans.formats.header_text import wholes
from pipeline.scans.formats.payload import check_count, check_shape
from pipeline.scans.quarantine import Code, Refused

PLAIN = ("domain", "space", "none", "???", "")
COUNTING = ("list", "time")
COLOURS = ("3-color", "rgb-color", "hsv-color", "xyz-color", "4-color", "rgba-color")
GRADIENT = re.compile(r"DWMRI_(gradient|B-matrix)_[0-9]{4}")


@dataclass(frozen=True)
class Axes:
    """``shape`` of one volume and the ``space`` axes that it belongs to; ``count`` volumes, interleaved in ``blocks`` as in ``Stored``."""

    shape: tuple[int, int, int]
    space: list[int]
    count: int
    blocks: int


def axes_of(fields: Mapping[str, str], keys: Mapping[str, str]) -> Axes:
    """Of a header's fields and of its own ``key:=value`` lines. An axis of one sample that runs nowhere is left out."""
    sizes = wholes(fields["sizes"])
    if [len(sizes)] != wholes(fields["dimension"]):
        raise Refused(Code.BAD_HEADER)
    vectors = vectors_of(fields.get("spacedirections", ""), len(sizes))
    kinds = fields.get("kinds", "").lower().split() or [""] * len(sizes)
    if len(kinds) != len(sizes):
        raise Refused(Code.BAD_HEADER)
    space = [axis for axis, vector in enumerate(vectors) if vector is not None]
    others = [axis for axis, vector in enumerate(vectors) if vector is None and sizes[axis] != 1]
    if len(space) > 3:
        raise Refused(Code.ORIENTATION)  # as ITK writes four dimensions: in a space without a name
    if len(space) < 3 or len(others) > 1 or any(kinds[axis] not in PLAIN for axis in space):
        raise Refused(Code.DIMENSIONS)
    shape = check_shape([sizes[axis] for axis in space])
    if not others:
        return Axes(shape, space, 1, 1)
    count, blocks = check_count(sizes[others[0]]), int(np.prod(sizes[others[0] + 1 :], dtype=np.int64))
    _check_counts(kinds[others[0]], count, keys)
    return Axes(shape, space, count, blocks)


def vectors_of(text: str, count: int) -> list[str | None]:
    """Inside of each bracket; None for an axis that runs nowhere."""
    if not re.fullmatch(r"\s*(?:(?:\([^()]*\)|none)\s*)+", text):
        raise Refused(Code.ORIENTATION)
    found = [inner if word != "none" else None for word, inner in re.findall(r"(none|\(([^()]*)\))", text)]
    if len(found) != count:
        raise Refused(Code.ORIENTATION)
    return found


def _check_counts(kind: str, count: int, keys: Mapping[str, str]) -> None:
    """Raises ``Refused`` for an axis that does not count volumes of intensities, or does not say that it does."""
    if kind in COLOURS:
        raise Refused(Code.COLOUR)
    if kind in PLAIN:
        raise Refused(Code.DIMENSIONS)
    is_layers = any(key.startswith("Segment") for key in keys)  # of 3D Slicer's segmentations, where they overlap
    gradients = sum(bool(GRADIENT.fullmatch(key)) for key in keys) if keys.get("modality") == "DWMRI" else 0
    if is_layers or not (kind in COUNTING or (kind == "vector" and count == gradients)):
        raise Refused(Code.DATA_TYPE)
