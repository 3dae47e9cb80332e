"""A grid: where the voxels of an array lie in the patient, without the voxels themselves.

World coordinates are RAS+ millimetres; an index addresses a voxel centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AXES = ("R", "A", "S")


@dataclass(frozen=True, eq=False)
class Grid:
    """The shape of an array and the affine (4, 4) that maps its indices to RAS+ millimetres."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError("affine: must be a finite 4 x 4 matrix")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape: must be three positive numbers, not {self.shape}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise ValueError("affine: is singular, so voxels have no volume")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @classmethod
    def of(cls, shape: tuple[int, ...], spacing_mm: tuple[float, ...], origin_mm: tuple[float, ...] = (0, 0, 0)) -> Grid:
        """An axis-aligned RAS+ grid."""
        affine = np.diag([*spacing_mm, 1.0]).astype(np.float64)
        affine[:3, 3] = origin_mm
        return cls(tuple(shape), affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each array axis."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Size of the whole grid, outer voxel faces included."""
        return tuple(n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))

    @property
    def directions(self) -> np.ndarray:
        """(3, 3): column a is the unit vector of array axis a."""
        return self.affine[:3, :3] / np.asarray(self.spacing_mm)

    @property
    def orientation(self) -> str:
        """Nearest anatomical axes, such as ``RAS``: where each array axis points."""
        return "".join(_letter(column) for column in self.directions.T)

    def world(self, index: np.ndarray) -> np.ndarray:
        """(..., 3) indices -> (..., 3) millimetres."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def index(self, world_mm: np.ndarray) -> np.ndarray:
        """(..., 3) millimetres -> (..., 3) fractional indices."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(world_mm, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def corners_mm(self) -> np.ndarray:
        """(8, 3): world positions of the eight corner voxel centres."""
        ends = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, 8).T
        return self.world(ends)

    def cropped(self, low: tuple[int, ...], high: tuple[int, ...]) -> Grid:
        """The grid of ``array[low:high]``; a negative low or a high past the end grows the grid."""
        affine = self.affine.copy()
        affine[:3, 3] = self.world(np.asarray(low))
        return Grid(tuple(int(b - a) for a, b in zip(low, high, strict=True)), affine)

    def resampled(self, spacing_mm: tuple[float, ...]) -> Grid:
        """The grid of other spacing that covers the same outer faces, centred on the same point."""
        old = np.asarray(self.spacing_mm)
        new = np.asarray(spacing_mm, dtype=np.float64)
        shape = tuple(max(1, round(n * a / b)) for n, a, b in zip(self.shape, old, new, strict=True))
        affine = self.affine.copy()
        affine[:3, :3] = self.directions * new
        centre = self.world((np.asarray(self.shape) - 1) / 2)
        affine[:3, 3] = centre - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
        return Grid(shape, affine)

    def canonical(self) -> tuple[Grid, tuple[int, int, int], tuple[bool, bool, bool]]:
        """The RAS+ grid of the same voxels, with the axis order and the flips that reach it.

        ``array.transpose(order)`` and then a flip of each axis whose flag is set gives an array on the returned grid.
        An oblique grid keeps its obliqueness: axes go to the nearest anatomical ones.
        """
        order, flips = nearest_axes(self.directions)
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3][:, order]
        shape = tuple(self.shape[a] for a in order)
        for axis, flip in enumerate(flips):
            if flip:
                affine[:3, 3] = affine[:3, 3] + affine[:3, axis] * (shape[axis] - 1)
                affine[:3, axis] = -affine[:3, axis]
        return Grid(shape, affine), order, flips

    def same_place(self, other: Grid, tolerance_mm: float = 0.1) -> bool:
        """Whether two grids have the same shape and no corner lies further apart than the tolerance."""
        if self.shape != other.shape:
            return False
        return bool(np.abs(self.corners_mm() - other.corners_mm()).max() <= tolerance_mm)


def nearest_axes(directions: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """For each of Right, Anterior, Superior: which array axis runs along it, and whether it runs backwards.

    The assignment maximises the summed cosine, so that an oblique grid never gets one axis twice.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-np.abs(directions))
    order = tuple(int(columns[list(rows).index(world)]) for world in range(3))
    flips = tuple(bool(directions[world, axis] < 0) for world, axis in enumerate(order))
    return order, flips


def _letter(direction: np.ndarray) -> str:
    axis = int(np.abs(direction).argmax())
    return AXES[axis] if direction[axis] > 0 else "LPI"[axis]
