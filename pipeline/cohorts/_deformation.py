"""Smooth random fields and deformations of known form: uniform cubic B-splines over a lattice (Rueckert et al., IEEE TMI 1999)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anatomy.grid import Grid

REACH_MM = 150.0  # half the side of the cube that the lattices cover; a head fits in it
MIN_JACOBIAN = 0.3


@dataclass(frozen=True)
class Deformation:
    """Maps a place of the subject to its place in the template: ``centre + linear (place - centre - shift) + bend(place)``.

    ``lattices`` are pairs (distance of the control points in mm, control points (N, N, N, 3) in mm). All is RAS+ millimetres.
    """

    centre_mm: np.ndarray
    linear: np.ndarray
    shift_mm: np.ndarray
    lattices: tuple[tuple[float, np.ndarray], ...]

    def field(self, grid: Grid) -> np.ndarray:
        """(D, H, W, 3) float64: where each voxel of an axis-aligned grid lies in the template."""
        axes = axes_of(grid, self.centre_mm + self.shift_mm)
        places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        bend = sum(spline(control, distance, axes) for distance, control in self.lattices)
        return places @ self.linear.T + self.centre_mm + bend


def draw_deformation(rng: np.random.Generator, centre_mm: np.ndarray) -> Deformation:
    """Scale within 8 % and rotation within 6 degrees along each axis, shift within 20 mm, and a bend of a few millimetres.

    The bend is made weaker until the deformation is invertible with some margin: its Jacobian is nowhere below 0.3.
    """
    scale = 1.0 + rng.uniform(-0.08, 0.08, 3)
    linear = rotation(np.deg2rad(rng.uniform(-6, 6, 3))) @ np.diag(1.0 / scale)
    shift = rng.uniform(-20, 20, 3)
    lattices = tuple((distance, draw_lattice(rng, distance, deviation, 3)) for distance, deviation in ((60.0, 7.0), (30.0, 4.0)))
    deformation = Deformation(centre_mm, linear, shift, lattices)
    check = Grid.of((50, 50, 50), (5, 5, 5), tuple(centre_mm + shift - 122.5))
    while jacobian(deformation.field(check), 5.0).min() < MIN_JACOBIAN:
        lattices = tuple((distance, control * 0.9) for distance, control in deformation.lattices)
        deformation = Deformation(centre_mm, linear, shift, lattices)
    return deformation


def rotation(angles: np.ndarray) -> np.ndarray:
    """(3, 3): about x, then y, then z, in radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def draw_lattice(rng: np.random.Generator, distance_mm: float, deviation: float, values: int) -> np.ndarray:
    """(N, N, N, values) normal control values, enough to cover the cube of ``REACH_MM``."""
    count = int(np.ceil(2 * REACH_MM / distance_mm)) + 3
    return rng.normal(0.0, deviation, (count, count, count, values))


def axes_of(grid: Grid, origin_mm: np.ndarray) -> list[np.ndarray]:
    """Three arrays: the coordinates along each axis, relative to an origin."""
    return [grid.affine[axis, 3] + grid.affine[axis, axis] * np.arange(grid.shape[axis]) - origin_mm[axis] for axis in range(3)]


def spline(control: np.ndarray, distance_mm: float, axes: list[np.ndarray]) -> np.ndarray:
    """Values (D, H, W, K) of a lattice (N, N, N, K), whose middle is the origin of the axes."""
    x, y, z = (_basis(axis, distance_mm, control.shape[0]) for axis in axes)
    value = np.tensordot(x, control, (1, 0))
    value = np.moveaxis(np.tensordot(y, value, (1, 1)), 0, 1)
    return np.moveaxis(np.tensordot(z, value, (1, 2)), 0, 2)


def _basis(places: np.ndarray, distance_mm: float, count: int) -> np.ndarray:
    """(P, count): weight of each control point at each place; places beyond the cube take its border's value."""
    index = np.clip((places + REACH_MM) / distance_mm, 0, count - 3 - 1e-9)
    first = np.floor(index).astype(int)
    t = index - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=-1) / 6
    matrix = np.zeros((len(places), count))
    np.put_along_axis(matrix, first[:, None] + np.arange(4), weights, axis=1)
    return matrix


def jacobian(field: np.ndarray, spacing_mm: float) -> np.ndarray:
    """(D, H, W): determinant of a field (D, H, W, 3) sampled at one spacing."""
    return np.linalg.det(np.stack([np.gradient(field, spacing_mm, axis=axis) for axis in range(3)], axis=-1))
