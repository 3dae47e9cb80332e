"""Where the body is in a scan, and body coordinates: the body's box spans [0, 1] along Right, Anterior, Superior.

A body is told from air by a threshold: -500 HU in CT; else Otsu's (1979) on cube roots, which keeps dim tissue (PET, MR at a
coil's far end) above it. A field of view that shows no air (a crop inside the head) has no outline to be found, only bright tissue in
darker tissue. So an outline is believed only if air surrounds it: what lies below the threshold has its mean in the darkest tenth of the
range of values (not asked of CT, whose air is known; where CT has none, its values may be no HU, and it is asked), at
least half of the voxels on the volume's twelve edges lie outside, and at
least 2 % of the volume inside. Otherwise the whole volume is the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from anatomy.blocks import BlockMeans
from anatomy.grid import Grid

AIR_HU = -500.0
MAX_AIR = 0.1
MIN_EDGE_AIR = 0.5
MIN_BODY = 0.02


@dataclass(frozen=True)
class Body:
    """Which blocks of a volume are body: ``blocks`` (d, h, w) bool, each of ``factors`` voxels (fewer at the far ends of ``shape``)."""

    blocks: np.ndarray
    factors: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mask: np.ndarray) -> Body:
        """A mask, voxel by voxel."""
        return cls(mask, (1, 1, 1), mask.shape)

    def mask(self) -> np.ndarray:
        """(D, H, W) bool of the whole volume."""
        return self.at([np.arange(n) for n in self.shape])

    def at(self, index: Sequence[np.ndarray]) -> np.ndarray:
        """(n, m, k) bool: the voxels at these indices of each axis."""
        found = self.blocks
        for axis, (places, factor) in enumerate(zip(index, self.factors, strict=True)):
            found = found.take(places // factor, axis=axis)
        return found

    def box(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Lower corner and the one behind the upper, as indices of voxels; an empty body is a ``ValueError``."""
        if not self.blocks.any():
            raise ValueError("mask: is empty, so it has no box")
        spans = [np.flatnonzero(self.blocks.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        low = tuple(int(span[0]) * f for span, f in zip(spans, self.factors, strict=True))
        return low, tuple(min(n, (int(span[-1]) + 1) * f) for span, f, n in zip(spans, self.factors, self.shape, strict=True))

    def box_mm(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner (3,) of the box around the voxels, outer faces included, in RAS+ mm along the world's axes."""
        self.box()
        rows, slices = np.nonzero(self.blocks.any(axis=0))
        first = self.blocks.argmax(axis=0)[rows, slices]  # a line of blocks reaches furthest at its ends
        last = len(self.blocks) - 1 - self.blocks[::-1].argmax(axis=0)[rows, slices]
        ends = np.concatenate([np.stack([end, rows, slices], axis=1) for end in (first, last)])
        low = ends * self.factors
        high = np.minimum(low + self.factors, self.shape) - 1
        turn, origin = grid.affine[:3, :3], grid.affine[:3, 3]
        least = [(np.where(row > 0, low, high) @ row).min() for row in turn]
        most = [(np.where(row > 0, high, low) @ row).max() for row in turn]
        half = np.abs(turn).sum(axis=1) / 2
        return least + origin - half, most + origin + half


def find_body(found: BlockMeans, modality: str = "MR") -> Body:
    """Of a volume in RAS order, whose slices ``found`` has seen all: one filled component without the table, exact to a block.

    The means are smoothed over 3 blocks.
    """
    coarse = _smooth(found.means)
    in_hu = modality == "CT" and _shows_air(coarse)
    threshold = AIR_HU if in_hu else otsu(coarse)
    above = coarse > threshold
    everything = Body(np.ones(coarse.shape, dtype=bool), found.factors, found.shape)
    if not in_hu and _is_bright(coarse, above):
        return everything
    mask = _outline(above)
    if mask.mean() < MIN_BODY or 1.0 - _edges(mask).mean() < MIN_EDGE_AIR:
        return everything
    return Body(mask, found.factors, found.shape)


def _shows_air(means: np.ndarray) -> bool:
    """Whether the 0.5th percentile is below that of air in CT; a count tells so without sorting, unless it is close."""
    enough = int(0.005 * (means.size - 1)) + 2
    return bool(np.count_nonzero(means < AIR_HU) >= enough or np.percentile(means, 0.5) < AIR_HU)


def _is_bright(means: np.ndarray, above: np.ndarray) -> bool:
    """Whether what is not above the threshold has its mean outside the darkest tenth of the range."""
    low, high = np.percentile(means, (0.5, 99.5))
    return bool(np.mean(means[~above] - low) > MAX_AIR * (high - low))


def otsu(voxels: np.ndarray) -> float:
    """Otsu's threshold of the cube roots above the 0.5th percentile, as a value of the voxels; a constant array gives its value."""
    low, high = np.percentile(voxels, (0.5, 99.5))
    if high <= low:
        return float(low)
    root = np.cbrt((np.clip(voxels, low, high) - low) / (high - low))
    counts, edges = np.histogram(root, bins=256, range=(0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    best = edges[1 + int(np.nanargmax(between[:-1]))]
    return float(low + best**3 * (high - low))


def to_body(world_mm: np.ndarray, low_mm: np.ndarray, high_mm: np.ndarray) -> np.ndarray:
    """(..., 3) RAS+ mm -> (..., 3) body coordinates: 0 at the lower corner of the body's box, 1 at the upper one."""
    low, high = np.asarray(low_mm, dtype=np.float64), np.asarray(high_mm, dtype=np.float64)
    return (np.asarray(world_mm, dtype=np.float64) - low) / (high - low)


def from_body(body: np.ndarray, low_mm: np.ndarray, high_mm: np.ndarray) -> np.ndarray:
    """(..., 3) body coordinates -> (..., 3) RAS+ mm: the inverse of ``to_body``."""
    low, high = np.asarray(low_mm, dtype=np.float64), np.asarray(high_mm, dtype=np.float64)
    return low + np.asarray(body, dtype=np.float64) * (high - low)


def _outline(above: np.ndarray) -> np.ndarray:
    """The largest component after an opening (which cuts the table and noise off), filled in each axial slice."""
    opened = _grown(~_grown(~above, True))
    kept = opened if opened.any() else above
    labels, count = ndimage.label(kept)
    if count == 0:
        return above
    largest = labels == 1 + int(np.argmax(np.bincount(labels[kept])[1:]))
    grown = _grown(largest) & above | largest
    return _filled(grown)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means over 3 along each axis; at a face its own values go on."""
    for axis in range(3):
        lines, means = np.moveaxis(values, axis, 0), np.empty(values.shape, np.float32)
        sums = np.moveaxis(means, axis, 0)
        np.add(lines[:-1], lines[1:], out=sums[1:])
        np.add(lines[0], lines[0], out=sums[0])
        sums[:-1] += lines[1:]
        sums[-1] += lines[-1]
        means /= np.float32(3)
        values = means
    return values


def _grown(mask: np.ndarray, outside: bool = False) -> np.ndarray:
    """With the neighbours across each face; ``outside``: whether what lies beyond the volume is set."""
    out = mask.copy()
    for axis in range(3):
        own, grown = np.moveaxis(mask, axis, 0), np.moveaxis(out, axis, 0)
        grown[1:] |= own[:-1]
        grown[:-1] |= own[1:]
        if outside:
            grown[[0, -1]] = True
    return out


def _filled(mask: np.ndarray) -> np.ndarray:
    """With all of its outside filled that does not reach the rim of its axial slice, and so with every cavity."""
    in_slices = ndimage.generate_binary_structure(3, 1)
    in_slices[:, :, [0, 2]] = False
    outside, count = ndimage.label(~mask, in_slices)
    reaches = np.zeros(count + 1, dtype=bool)
    for rim in (outside[0], outside[-1], outside[:, 0], outside[:, -1]):
        reaches[rim] = True
    reaches[0] = False  # the mask itself
    return ~reaches[outside]


def _edges(mask: np.ndarray) -> np.ndarray:
    """The voxels of the twelve edges of the array, flat."""
    ends = [slice(None, None, max(1, n - 1)) for n in mask.shape]
    along = [tuple(slice(None) if axis == free else ends[axis] for axis in range(3)) for free in range(3)]
    return np.concatenate([mask[window].ravel() for window in along])
