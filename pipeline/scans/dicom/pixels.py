"""Stored pixels as physical values: which bits count, what is padding, and the scaling of each image (PS3.3 C.7.6.3, C.7.5.1.1.2, C.11.1).

int16 where that is exact, float32 elsewhere. MONOCHROME1 only says how to show an image: its values are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.scans.quarantine import Code, Refused

HIDDEN = np.iinfo(np.int16).min  # stands for padding until the least value of the volume is known
MAX_VALUE = 1e30


@dataclass(frozen=True)
class Coding:
    """How stored numbers mean values: value = stored * slope + inter. ``padding`` is (low, high), ends included, as the file states it."""

    bits: int
    used: int
    high: int
    signed: bool
    slope: float
    inter: float
    padding: tuple[int, int] | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """Least and largest number that can be stored."""
        return (-(1 << self.used - 1), (1 << self.used - 1) - 1) if self.signed else (0, (1 << self.used) - 1)

    @property
    def is_whole(self) -> bool:
        """Whether whole numbers stay whole."""
        return self.slope.is_integer() and self.inter.is_integer()


@dataclass(frozen=True)
class Image:
    """``load`` gives (rows, columns) stored numbers: containers with all their bits if ``is_raw``, else what a decoder made of them."""

    load: Callable[[], np.ndarray]
    coding: Coding
    is_raw: bool


def coding_of(values: dict[str, Any], modality: str, scaling: tuple[Any, Any] | None = None) -> Coding:
    """The coding of an image from its elements; ``scaling`` (slope, intercept) replaces what stands there. Raises ``Refused``."""
    bits, used, signed = values.get("BitsAllocated", 0), values.get("BitsStored", 0), values.get("PixelRepresentation", 2)
    high = values.get("HighBit", used - 1)
    if bits not in (8, 16, 32) or not 1 <= used <= bits or not used - 1 <= high < bits or signed not in (0, 1):
        raise Refused(Code.BAD_HEADER)
    if values.get("ModalityLUTSequence"):
        raise Refused(Code.SCALING)
    slope, inter = scaling or (_single(values, "RescaleSlope"), _single(values, "RescaleIntercept"))
    if modality in ("CT", "PT") and (slope is None or inter is None):
        raise Refused(Code.SCALING)
    slope, inter = 1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter)
    if not np.isfinite([slope, inter]).all() or slope == 0:
        raise Refused(Code.SCALING)
    padding = values.get("PixelPaddingValue")
    limits = None if padding is None else (padding, values.get("PixelPaddingRangeLimit", padding))
    coding = Coding(bits, used, high, signed == 1, slope, inter, limits)
    if max(abs(bound * slope + inter) for bound in coding.bounds) > MAX_VALUE:
        raise Refused(Code.NOT_FINITE)
    return coding


def _single(values: dict[str, Any], word: str) -> float | None:
    if word not in values:
        return None
    found = values[word]
    if found is None or len(found) != 1:
        raise Refused(Code.SCALING)
    return found[0]


def scale_into(images: Sequence[Image], out: np.ndarray) -> bool:
    """Fills (slices, rows, columns) with physical values, padding with the least of them; False where int16 would not be exact."""
    least, hidden = np.inf, False
    for place, image in zip(out, images, strict=True):
        stored, padding = _stored(image)
        if out.dtype == np.int16:
            if not _as_whole(stored, image.coding, place):
                return False
        else:
            place[...] = stored * image.coding.slope + image.coding.inter
        if padding is not None and padding.any():
            hidden = True
            kept = place[~padding]
            least = min(least, kept.min() if kept.size else np.inf)
            place[padding] = HIDDEN if out.dtype == np.int16 else np.nan
        elif hidden or image.coding.padding is not None:
            least = min(least, place.min())
    if hidden:
        _fill_hidden(images, out, least)
    return True


def _fill_hidden(images: Sequence[Image], out: np.ndarray, least: float) -> None:
    unseen = [place for place, image in zip(out, images, strict=True) if image.coding.padding is None]
    least = min([least, *(place.min() for place in unseen)])
    if not np.isfinite(least):
        raise Refused(Code.NOT_FINITE)
    for place in out:
        place[place == HIDDEN if out.dtype == np.int16 else np.isnan(place)] = least


def _as_whole(stored: np.ndarray, coding: Coding, place: np.ndarray) -> bool:
    """Whether all values are exact in int16 (its least number apart), and then puts them there."""
    if not coding.is_whole:
        return False
    slope, inter = int(coding.slope), int(coding.inter)
    for bounds in (coding.bounds, (int(stored.min()), int(stored.max()))):
        if all(HIDDEN < bound * slope + inter < -HIDDEN for bound in bounds):
            break
    else:
        return False
    np.copyto(place, stored, casting="unsafe")  # modulo 2^16 throughout; the last result is in range
    if slope != 1:
        place *= _wrapped(slope)
    if inter != 0:
        place += _wrapped(inter)
    return True


def _wrapped(value: int) -> np.int16:
    return np.int16((value + 32768) % 65536 - 32768)


def _stored(image: Image) -> tuple[np.ndarray, np.ndarray | None]:
    """(rows, columns) stored numbers and which are padding, compared both with and without the bits that do not count."""
    loaded, coding = image.load(), image.coding
    if not image.is_raw:
        padding = _padding(loaded, coding, coding.bits)
        if padding is not None:
            padding |= _padding(loaded, coding, coding.used)
        low, high = coding.bounds
        outside = (loaded < low) | (loaded > high)
        if outside.any() and (padding is None or (outside & ~padding).any()):
            raise Refused(Code.BAD_HEADER)  # the stream has more bits than the header counts
        return loaded, padding
    numbers = loaded.view(loaded.dtype.str.replace("u", "i")) if coding.signed else loaded
    padding = _padding(numbers, coding, coding.bits)
    if coding.used < coding.bits:
        numbers = (loaded << (coding.bits - 1 - coding.high)).view(numbers.dtype) >> (coding.bits - coding.used)
        if padding is not None:
            padding |= _padding(numbers, coding, coding.used)
    return numbers, padding


def _padding(numbers: np.ndarray, coding: Coding, used: int) -> np.ndarray | None:
    """Writers confuse the signedness of padding, and count bits that do not count; limits are wrapped to the numbers' own range."""
    if coding.padding is None:
        return None
    least = -(1 << used - 1) if coding.signed else 0
    limits = []
    for value in coding.padding:
        plain = value - 65536 if coding.signed and value >= 32768 else value
        if not least <= plain < least + (1 << used):
            return np.zeros(numbers.shape, bool)
        limits.append(plain)
    return (numbers >= min(limits)) & (numbers <= max(limits))
