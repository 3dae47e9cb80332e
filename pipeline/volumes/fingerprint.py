"""What is kept of a scan to recognise it again under another name, spacing, orientation, crop or window.

digest: sha256 of the canonical voxels and their shape; spacing is left out, because copies circulate with a rewritten one.

sketch: hashes of small patches, which crops, re-stacked series, mirrored and turned copies share (``volumes.sketch``).

thumbnail: the body's box at 32^3, ranks instead of values: what is left to compare once noise or interpolation changed every voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.stats import rankdata

from anatomy.body import Body
from anatomy.grid import Grid
from pipeline.volumes.resample import resample, resample_mask
from pipeline.volumes.survey import Survey
from pipeline.volumes.volume import Volume

THUMBNAIL = 32
LEVELS = 256


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


def fingerprint(found: Survey, body: Body) -> Fingerprint:
    """Of a canonical volume as it was read, before it is resampled. Thumbnail and sketch see the first channel."""
    return Fingerprint(found.digest, found.sketch, thumbnail(found.blocks.means, body.blocks))


def thumbnail(means: np.ndarray, body: np.ndarray) -> np.ndarray:
    """(d, h, w) means of blocks and bool -> (32, 32, 32) uint8: ranks of the values in the body's box, after 256 levels between their 0.5
    and 99.5 percentiles.

    Outside the body all are equal, or noise in air would take most of the ranks. Lungs are inside, whether or not the threshold
    that found the body, which another window moves, left them open to the outside.
    """
    spans = [np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = tuple(slice(int(s[0]), int(s[-1]) + 1) for s in spans)
    boxed = means[box]
    unit = Grid.of(boxed.shape, (1.0, 1.0, 1.0))
    coarse = unit.resampled(tuple(n / THUMBNAIL for n in unit.shape))
    small = resample(Volume(boxed[None], unit), coarse).voxels[0]
    inside = resample_mask(body[box], unit, coarse)
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
