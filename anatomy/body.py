"""Where the body is in a scan, and body coordinates: the body's box spans [0, 1] along Right, Anterior, Superior.

A body is told from air by a threshold: -500 HU in CT; else Otsu's (1979) on cube roots, which keeps dim tissue (PET, MR at a
coil's far end) above it. A field of view that shows no air (a crop inside the head) has no outline to be found, only bright tissue in
darker tissue. So an outline is believed only if air surrounds it: what lies below the threshold has its mean in the darkest tenth of the
range of values (not asked of CT, whose air is known; where CT has none, its values may be no HU, and it is asked), at
least half of the voxels on the volume's twelve edges lie outside, and at
least 2 % of the volume inside. Otherwise the whole volume is the body.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from anatomy.grid import Grid

AIR_HU = -500.0
MAX_AIR = 0.1
MIN_EDGE_AIR = 0.5
MIN_BODY = 0.02
COARSE_VOX = 128


def body_mask(voxels: np.ndarray, modality: str = "MR") -> np.ndarray:
    """voxels (D, H, W) of physical values in RAS order -> (D, H, W) bool, one filled component without the table.

    Large volumes are thresholded at block means of at most 128 along an axis, smoothed over 3, so the outline is exact to a block.
    """
    factors = tuple(-(-n // COARSE_VOX) for n in voxels.shape)
    coarse = ndimage.uniform_filter(_block_means(voxels, factors), 3)
    low, high = np.percentile(coarse, (0.5, 99.5))
    in_hu = modality == "CT" and low < AIR_HU
    threshold = AIR_HU if in_hu else otsu(coarse)
    above = coarse > threshold
    if not in_hu and np.mean(coarse[~above] - low) > MAX_AIR * (high - low):
        return np.ones(voxels.shape, dtype=bool)
    mask = _outline(above)
    if mask.mean() < MIN_BODY or 1.0 - _edges(mask).mean() < MIN_EDGE_AIR:
        return np.ones(voxels.shape, dtype=bool)
    for axis, factor in enumerate(factors):
        mask = np.repeat(mask, factor, axis=axis) if factor > 1 else mask
    return np.ascontiguousarray(mask[tuple(slice(0, n) for n in voxels.shape)])


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


def body_box_mm(mask: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corner (3,) of the box around the mask's voxels, outer faces included, in RAS+ mm along the world's axes."""
    if not mask.any():
        raise ValueError("mask: is empty, so it has no box")
    inner = mask & ~ndimage.binary_erosion(mask)
    centres = grid.world(np.argwhere(inner))
    half = np.abs(grid.affine[:3, :3]).sum(axis=1) / 2
    return centres.min(axis=0) - half, centres.max(axis=0) + half


def to_body(world_mm: np.ndarray, low_mm: np.ndarray, high_mm: np.ndarray) -> np.ndarray:
    """(..., 3) RAS+ mm -> (..., 3) body coordinates: 0 at the lower corner of the body's box, 1 at the upper one."""
    low, high = np.asarray(low_mm, dtype=np.float64), np.asarray(high_mm, dtype=np.float64)
    return (np.asarray(world_mm, dtype=np.float64) - low) / (high - low)


def from_body(body: np.ndarray, low_mm: np.ndarray, high_mm: np.ndarray) -> np.ndarray:
    """(..., 3) body coordinates -> (..., 3) RAS+ mm: the inverse of ``to_body``."""
    low, high = np.asarray(low_mm, dtype=np.float64), np.asarray(high_mm, dtype=np.float64)
    return low + np.asarray(body, dtype=np.float64) * (high - low)


def _block_means(voxels: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    if max(factors) == 1:
        return voxels.astype(np.float32)
    padded = np.pad(voxels, [(0, -n % f) for n, f in zip(voxels.shape, factors, strict=True)], mode="edge")
    split = [part for n, f in zip(padded.shape, factors, strict=True) for part in (n // f, f)]
    return padded.reshape(split).mean(axis=(1, 3, 5), dtype=np.float32)


def _outline(above: np.ndarray) -> np.ndarray:
    """The largest component after an opening (which cuts the table and noise off), filled in 3D and in each axial slice."""
    opened = ndimage.binary_opening(above)
    labels, count = ndimage.label(opened if opened.any() else above)
    if count == 0:
        return above
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    grown = ndimage.binary_dilation(largest) & above | largest
    filled = ndimage.binary_fill_holes(grown)
    for z in range(filled.shape[2]):
        filled[:, :, z] = ndimage.binary_fill_holes(filled[:, :, z])
    return filled


def _edges(mask: np.ndarray) -> np.ndarray:
    """The voxels of the twelve edges of the array, flat."""
    ends = [slice(None, None, max(1, n - 1)) for n in mask.shape]
    along = [tuple(slice(None) if axis == free else ends[axis] for axis in range(3)) for free in range(3)]
    return np.concatenate([mask[window].ravel() for window in along])
