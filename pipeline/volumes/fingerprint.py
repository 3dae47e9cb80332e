"""What is kept of a scan to recognise it again under another name, spacing, orientation, crop or window.

digest: sha256 of the canonical voxels and their shape; spacing is left out, because copies circulate with a rewritten one.

sketch: the smallest 64-bit hashes of 5 x 5 in-plane neighbourhoods (a bottom-k sketch: Broder 1997, of shingles: here patches of
voxels). Which patches are hashed depends on voxel values alone and a hash does not change under flips and quarter turns in plane, so
that a crop along any axis, a re-stacked series, a mirrored or turned copy shares hashes with its original wherever voxels are equal.

thumbnail: the body's box at 32^3, ranks instead of values: what is left to compare once noise or interpolation changed every voxel.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.stats import rankdata

from anatomy.grid import Grid
from pipeline.volumes.resample import resample, resample_mask
from pipeline.volumes.volume import Volume

SKETCH = 256
THUMBNAIL = 32
LEVELS = 256
MAX_EQUAL = 4  # of 25 voxels equal to the centre, and
MIN_RANGE = 32  # from the least to the greatest: background is equal in unrelated scans
EVERY = 16  # one voxel value in so many may be the centre of a patch


@dataclass(frozen=True)
class Fingerprint:
    """digest: 64 hexadecimal digits; sketch: (<= 256,) uint64, sorted; thumbnail: (32, 32, 32) uint8."""

    digest: str
    sketch: np.ndarray
    thumbnail: np.ndarray

    def packed(self) -> np.ndarray:
        """(n,) uint8: digest, thumbnail and sketch in this order."""
        parts = (
            np.frombuffer(bytes.fromhex(self.digest), dtype=np.uint8),
            self.thumbnail.ravel(),
            self.sketch.astype("<u8").view(np.uint8),
        )
        return np.concatenate(parts)

    @classmethod
    def unpacked(cls, data: np.ndarray | bytes) -> Fingerprint:
        """The inverse of ``packed``."""
        raw = np.frombuffer(bytes(data), dtype=np.uint8)
        end = 32 + THUMBNAIL**3
        return cls(raw[:32].tobytes().hex(), raw[end:].view("<u8"), raw[32:end].reshape((THUMBNAIL,) * 3))


def fingerprint(volume: Volume, body: np.ndarray) -> Fingerprint:
    """Of a canonical volume as it was read, before it is resampled; body (D, H, W) bool. Thumbnail and sketch see the first channel."""
    return Fingerprint(voxel_digest(volume.voxels), sketch(volume.voxels[0]), thumbnail(volume, body))


def voxel_digest(voxels: np.ndarray) -> str:
    """sha256 of shape and values; whole numbers that fit are hashed as int16, whatever type they came in."""
    values = np.ascontiguousarray(_whole(voxels))
    seed = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    seed.update(values)
    return seed.hexdigest()


def sketch(voxels: np.ndarray) -> np.ndarray:
    """(D, H, W) -> the 256 smallest hashes of its patches, or fewer."""
    codes = _codes(_whole(voxels))
    mixed = _mix(np.arange(65536, dtype=np.uint64))
    inner = codes[2:-2, 2:-2]
    if inner.size == 0:
        return np.empty(0, dtype=np.uint64)
    d, h, w = np.nonzero((mixed % np.uint64(EVERY) == 0)[inner])
    total = np.zeros(len(d), dtype=np.uint64)
    equal = np.zeros(len(d), dtype=np.int16)
    centre = inner[d, h, w]
    least, greatest = centre.view(np.int16).copy(), centre.view(np.int16).copy()
    for i in range(-2, 3):
        for j in range(-2, 3):
            neighbour = codes[d + (2 + i), h + (2 + j), w]
            total += mixed[neighbour] * _mix(np.uint64(977 + 3 * max(abs(i), abs(j)) + min(abs(i), abs(j))))
            equal += neighbour == centre
            np.minimum(least, neighbour.view(np.int16), out=least)
            np.maximum(greatest, neighbour.view(np.int16), out=greatest)
    kept = (equal <= MAX_EQUAL) & (greatest.astype(np.int32) - least >= MIN_RANGE)
    return np.unique(_mix(total[kept]))[:SKETCH]


def thumbnail(volume: Volume, body: np.ndarray) -> np.ndarray:
    """(32, 32, 32) uint8: ranks of the values in the body's box, after 256 levels between their 0.5 and 99.5 percentiles.

    Outside the body all are equal, or noise in air would take most of the ranks. Lungs are inside, whether or not the threshold
    that found the body, which another window moves, left them open to the outside.
    """
    spans = [np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    boxed = volume.cropped(tuple(int(s[0]) for s in spans), tuple(int(s[-1]) + 1 for s in spans))
    unit = Grid.of(boxed.grid.shape, (1.0, 1.0, 1.0))
    coarse = unit.resampled(tuple(n / THUMBNAIL for n in unit.shape))
    small = resample(Volume(boxed.voxels[:1], unit), coarse).voxels[0].astype(np.float32)
    inside = resample_mask(body[tuple(slice(int(s[0]), int(s[-1]) + 1) for s in spans)], unit, coarse)
    small = np.where(_filled(inside), small, small.min())
    low, high = np.percentile(small, (0.5, 99.5))
    steps = np.rint(np.clip((small - low) / max(high - low, 1e-12), 0, 1) * (LEVELS - 1))
    return np.rint(rankdata(steps) * (255.0 / steps.size)).astype(np.uint8).reshape((THUMBNAIL,) * 3)


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask with the holes that any plane through it shows closed around."""
    filled = ndimage.binary_closing(np.pad(mask, 2), iterations=2)[2:-2, 2:-2, 2:-2] | mask
    for axis in range(3):
        for plane in np.moveaxis(filled, axis, 0):
            plane[...] = ndimage.binary_fill_holes(plane)
    return filled


def _whole(voxels: np.ndarray) -> np.ndarray:
    """int16 if every value is a whole number that fits, else float32."""
    if voxels.dtype == np.int16:
        return voxels
    rounded = np.clip(np.rint(voxels), -32768, 32767).astype(np.int16)
    return rounded if np.array_equal(rounded, voxels) else voxels.astype(np.float32)


def _codes(values: np.ndarray) -> np.ndarray:
    """16 bits a voxel that depend on its value alone."""
    if values.dtype == np.int16:
        return values.view(np.uint16)
    return (_mix(np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)) & np.uint64(0xFFFF)).astype(np.uint16)


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
