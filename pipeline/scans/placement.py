"""Whether an affine says where voxels lie in a body: finite, at right angles, and of a size that scans have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.quarantine import Code, Refused

MAX_SHEAR = 1e-3  # cosine between two axes of the array
MAX_POSITION_MM = 1e5  # of anything from a scanner's origin
MIN_SPACING_MM, MAX_SPACING_MM = 0.002, 100.0


def grid_of(shape: Sequence[int], affine: np.ndarray) -> Grid:
    """The grid of an affine (4, 4) to RAS+ mm; raises ``Refused`` for one that is no regular grid of boxes, or is far from any scanner."""
    affine = np.asarray(affine, np.float64)
    if not np.isfinite(affine).all() or np.abs(affine).max() > MAX_POSITION_MM:
        raise Refused(Code.ORIENTATION)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths == 0).any():
        raise Refused(Code.ORIENTATION)
    cosines = (affine[:3, :3] / lengths).T @ (affine[:3, :3] / lengths)
    if np.abs(cosines - np.eye(3)).max() > MAX_SHEAR:
        raise Refused(Code.ORIENTATION)
    if lengths.min() < MIN_SPACING_MM or lengths.max() > MAX_SPACING_MM:
        raise Refused(Code.PIXEL_SPACING)
    grid = Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
    if np.abs(grid.corners_mm()).max() > MAX_POSITION_MM:
        raise Refused(Code.ORIENTATION)
    return grid
