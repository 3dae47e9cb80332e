"""Brains made from a template: its anatomy bent, its tissues given other brightness, a bias field and noise laid over.

They look like T1-weighted MR and are honest about what they are: every one is the same anatomy, and where each voxel comes from is known.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.cohorts._deformation import Deformation, axes_of, draw_deformation, draw_lattice, spline

TISSUES = {1: "grey matter", 2: "white matter", 3: "cerebrospinal fluid"}
TRUTH_STEP = 2  # voxels: the bend is smooth, so every second voxel says where all lie


@dataclass(frozen=True)
class Template:
    """t1 (D, H, W) in [0, 1]; shares (4, D, H, W) in [0, 1]: outside, grey matter, white matter, fluid. Slightly smoothed, float32."""

    t1: np.ndarray
    shares: np.ndarray
    grid: Grid

    @property
    def centre_mm(self) -> np.ndarray:
        return self.grid.world((np.asarray(self.grid.shape) - 1) / 2)


@dataclass(frozen=True)
class Brain:
    """voxels (D, H, W) int16, labels (D, H, W) uint8, truth (d, h, w, 3) float32: places in the template, in RAS+ mm."""

    voxels: np.ndarray
    labels: np.ndarray
    grid: Grid
    truth: np.ndarray
    truth_grid: Grid


def read_template(t1: Any, grey: Any, white: Any, smooth_mm: float) -> Template:
    """From three nibabel images of one RAS+ grid, values 0 to 255. What the T1 shows and neither map claims is fluid."""
    from scipy.ndimage import binary_fill_holes, gaussian_filter

    values = [np.asarray(image.dataobj, dtype=np.float32) / 255 for image in (t1, grey, white)]
    mask = binary_fill_holes(values[0] > 0)
    found = np.argwhere(mask)
    window = tuple(slice(max(0, a - 4), b + 5) for a, b in zip(found.min(0), found.max(0), strict=True))
    low = tuple(part.start for part in window)
    t1_values, grey_share, white_share = (value[window] for value in values)
    inside = mask[window].astype(np.float32)
    grid = Grid(t1.shape, t1.affine).cropped(low, tuple(a + n for a, n in zip(low, inside.shape, strict=True)))
    fluid = np.clip(inside - grey_share - white_share, 0, None)
    parts = [gaussian_filter(part, smooth_mm / grid.spacing_mm[0]) for part in (t1_values, 1 - inside, grey_share, white_share, fluid)]
    return Template(parts[0], np.stack(parts[1:]), grid)


def make_brain(template: Template, seed: int, name: str, spacing_mm: float) -> Brain:
    """One subject, a pure function of the template, the seed and the subject's name."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little"))
    deformation = draw_deformation(rng, template.centre_mm)
    grid = _around(template, deformation, spacing_mm, rng)
    places = template.grid.index(deformation.field(grid))
    shares = np.stack([_sampled(share, places, outside) for share, outside in zip(template.shares, (1, 0, 0, 0), strict=True)])
    labels = shares.argmax(axis=0).astype(np.uint8)
    voxels = _scanned(_sampled(template.t1, places, 0.0), labels > 0, grid, template.centre_mm + deformation.shift_mm, rng)
    truth_grid = _coarse(grid)
    return Brain(voxels, labels, grid, deformation.field(truth_grid).astype(np.float32), truth_grid)


def _around(template: Template, deformation: Deformation, spacing_mm: float, rng: np.random.Generator) -> Grid:
    """A grid around the bent brain with 1 to 9 voxels to spare at each side, so that no two subjects share a shape by plan."""
    rough = Grid.of((64, 64, 64), (4, 4, 4), tuple(template.centre_mm + deformation.shift_mm - 126))
    inside = _sampled(1 - template.shares[0], template.grid.index(deformation.field(rough)), 0.0) > 0.5
    found = rough.world(np.argwhere(inside))
    spare = rng.integers(1, 10, (2, 3))
    low = found.min(axis=0) - 3 - spare[0] * spacing_mm
    high = found.max(axis=0) + 3 + spare[1] * spacing_mm
    shape = tuple(int(n) for n in np.ceil((high - low) / spacing_mm))
    return Grid.of(shape, (spacing_mm,) * 3, tuple(np.round(low, 3)))


def _coarse(grid: Grid) -> Grid:
    """Every second voxel, and one beyond the last, so that interpolation reaches all voxels."""
    affine = grid.affine.copy()
    affine[:3, :3] *= TRUTH_STEP
    return Grid(tuple(-(-(n - 1) // TRUTH_STEP) + 1 for n in grid.shape), affine)


def _sampled(values: np.ndarray, index: np.ndarray, outside: float) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    return map_coordinates(values, np.moveaxis(index, -1, 0), order=1, mode="constant", cval=outside)


def _scanned(t1: np.ndarray, brain: np.ndarray, grid: Grid, origin_mm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness by a rising curve, a bias field of about 15 %, Rician noise of 1 to 3 % and a scale of the scanner's own; 0 outside."""
    dark, middle, bright = rng.uniform(0.08, 0.3), rng.uniform(0.4, 0.65), rng.uniform(0.75, 1.0)
    seen = np.interp(t1, (0.0, 0.25, 0.6, 0.85, 1.0), (0.0, dark, middle, bright, 1.1))
    bias = spline(draw_lattice(rng, 90.0, 0.3, 1), 90.0, axes_of(grid, origin_mm))[..., 0]
    seen *= np.exp(bias)
    noise = rng.normal(0.0, rng.uniform(0.01, 0.03), (2, *grid.shape))
    seen = np.hypot(seen + noise[0], noise[1]) * brain
    return np.round(seen * rng.uniform(400, 3000)).clip(0, 32767).astype(np.int16)


def pack_truth(brain: Brain) -> bytes:
    """An .npz: ``template_mm`` (d, h, w, 3) float32 RAS+ mm, and ``affine`` (4, 4) from its indices to the subject's RAS+ mm."""
    stream = io.BytesIO()
    np.savez(stream, template_mm=brain.truth, affine=brain.truth_grid.affine)
    return stream.getvalue()


def template_place(truth: Path, places_mm: np.ndarray) -> np.ndarray:
    """(N, 3) places of a subject in RAS+ mm -> (N, 3) places in the template, from the subject's ``truth`` file; NaN off its grid."""
    from scipy.ndimage import map_coordinates

    with np.load(truth) as known:
        field, affine = known["template_mm"].astype(np.float64), known["affine"]
    index = Grid(field.shape[:3], affine).index(places_mm).T
    return np.stack([map_coordinates(field[..., axis], index, order=1, cval=np.nan) for axis in range(3)], axis=-1)
