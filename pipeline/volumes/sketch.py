"""A sketch: the smallest 64-bit hashes of a volume's 5 x 5 in-plane neighbourhoods (a bottom-k sketch: Broder 1997, of shingles: here
patches of voxels).

A hash depends on the values in its patch alone and does not change under flips and quarter turns in plane, so that a crop along any axis,
a re-stacked series, a mirrored or turned copy shares hashes with its original wherever voxels are equal. Its highest 16 bits come from
the centre and its four neighbours: they are cheap to have for every voxel, and only patches whose 16 bits are small are hashed whole.
"""

from __future__ import annotations

import numpy as np

SKETCH = 256
ENOUGH = 16384  # patches to hash whole; more, if too few of them are kept
MAX_EQUAL = 4  # of 25 voxels equal to the centre, and
MIN_RANGE = 32  # from the least to the greatest: background is equal in unrelated scans
NEAR = [(i, j) for i in range(-1, 2) for j in range(-1, 2)]
FAR = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if (i, j) not in NEAR]
AT_ONCE = 1 << 15  # patches that are hashed at once
_CENTRE, _SPREAD, _FLOAT = np.uint16(40503), np.uint16(52711), np.uint32(0x9E3779B1)


class Sketch:
    """``add`` every axial picture once, in any order; ``hashes`` are (<= 256,) uint64, sorted. ``limit``: patches whose 16 bits are
    below it are looked at, of 65536."""

    def __init__(self, num_voxels: int) -> None:
        self.limit = min(65536, -(-65536 * ENOUGH // num_voxels))
        self._found: list[np.ndarray] = []
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, picture: np.ndarray) -> None:
        """picture (H, D): int16, or float32 where values are no whole numbers."""
        if min(picture.shape) >= 5:
            self._waiting.append(_patches(_codes(picture), self.limit))
            if sum(len(top) for top, _ in self._waiting) >= AT_ONCE:
                self._hash()

    def hashes(self) -> np.ndarray:
        self._hash()
        found = np.concatenate(self._found) if self._found else np.empty(0, dtype=np.uint64)
        return np.unique(found)[:SKETCH]

    def wants_more(self) -> bool:
        """Whether all pictures have to be added again, because too few patches were kept; forgets them then."""
        if self.limit == 65536 or len(self.hashes()) == SKETCH:
            return False
        self.limit, self._found = min(65536, 16 * self.limit), []
        return True

    def _hash(self) -> None:
        if self._waiting:
            top, patches = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
            self._found.append(_hashes(top, patches))
            self._waiting = []


def _patches(codes: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) highest bits of a hash, in place, and (n, 25) values of the patches of one picture that are below the limit."""
    width, flat = codes.shape[1], codes.ravel()
    cross = _crosses(flat, width)
    places = np.flatnonzero(cross < limit) if limit < 65536 else np.arange(len(cross))
    top = cross[places].astype(np.uint64) << np.uint64(48)
    places += width
    row, column = np.divmod(places, width)
    inner = (row >= 2) & (row < len(codes) - 2) & (column >= 2) & (column < width - 2)
    places, top = places[inner], top[inner]
    near = flat[places[:, None] + [i * width + j for i, j in NEAR]]
    kept = (near == near[:, NEAR.index((0, 0)), None]).sum(axis=1) <= MAX_EQUAL  # most of a picture's background ends here
    places, top, near = places[kept], top[kept], near[kept]
    return top, np.concatenate([near, flat[places[:, None] + [i * width + j for i, j in FAR]]], axis=1)


def _hashes(top: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Of the patches that are kept."""
    values = patches.view(np.int16)
    span = values.max(axis=1, initial=-32768).astype(np.int32) - values.min(axis=1, initial=32767)
    equal = (patches == patches[:, NEAR.index((0, 0)), None]).sum(axis=1)
    kept = (equal <= MAX_EQUAL) & (span >= MIN_RANGE)
    total = (_MIXED[patches[kept]] * _WEIGHTS).sum(axis=1, dtype=np.uint64)
    return top[kept] | _mix(total) >> np.uint64(16)


def _crosses(flat: np.ndarray, width: int) -> np.ndarray:
    """16 bits of each voxel, with its four neighbours, from the second row to the one before the last; at the ends of rows they mean
    nothing."""
    inner = slice(width, len(flat) - width)
    cross = flat[: -2 * width] + flat[2 * width :]
    cross += flat[width - 1 : -width - 1]
    cross += flat[width + 1 : len(flat) - width + 1]
    part = flat[inner] * _CENTRE
    cross += part
    cross ^= np.right_shift(cross, np.uint16(7), out=part)
    cross *= _SPREAD
    return cross


def _codes(picture: np.ndarray) -> np.ndarray:
    """16 bits a voxel that depend on its value alone."""
    if picture.dtype == np.int16:
        return picture.view(np.uint16)
    return ((picture.view(np.uint32) * _FLOAT) >> np.uint32(16)).astype(np.uint16)


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


_MIXED = _mix(np.arange(65536, dtype=np.uint64))
_WEIGHTS = _mix(np.array([977 + 3 * max(abs(i), abs(j)) + min(abs(i), abs(j)) for i, j in [*NEAR, *FAR]], dtype=np.uint64))
