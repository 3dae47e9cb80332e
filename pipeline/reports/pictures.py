"""Slices of stored volumes as small PNGs inside a page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np


def png_uri(image: np.ndarray) -> str:
    """A ``data:`` URI of a (rows, columns) array of values in [0, 1]."""
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray((np.clip(image, 0, 1) * 255).round().astype(np.uint8)).save(target, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()


def normalised(stored: np.ndarray, low: float, high: float) -> np.ndarray:
    """Stored int16 values -> [0, 1]."""
    return np.clip((stored.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)


def upright(plane: np.ndarray, mirrored: bool = True) -> np.ndarray:
    """An array slice as a picture, its second axis upwards. ``mirrored``: its first axis runs to the left, as radiologists
    look at a patient, whose right is then on the picture's left."""
    return plane.T[::-1, ::-1] if mirrored else plane.T[::-1]


def three_planes(voxels: np.ndarray, spacing_mm: Any, height: int = 96) -> np.ndarray:
    """Axial, coronal and sagittal middle slices of a (D, H, W) volume in [0, 1], side by side at one scale, pixels square in mm; the
    tallest is ``height`` pixels high."""
    from scipy.ndimage import zoom

    spacing = np.asarray(spacing_mm, dtype=float)
    tallest_mm = (np.array(voxels.shape) * spacing)[1:].max()
    planes = []
    for axis, (a, b) in ((2, (0, 1)), (1, (0, 2)), (0, (1, 2))):
        plane = voxels.take(voxels.shape[axis] // 2, axis=axis)
        picture = zoom(plane, height / tallest_mm * spacing[[a, b]], order=1)
        planes.append(upright(picture, mirrored=axis != 0))
    spare = [max(plane.shape[0] for plane in planes) - plane.shape[0] for plane in planes]
    return np.concatenate([np.pad(p, ((n // 2, n - n // 2), (2, 2))) for p, n in zip(planes, spare, strict=True)], axis=1)


def patch(store: Any, row: Any, centre_mm: np.ndarray, size_mm: float, pixels: int = 72) -> np.ndarray:
    """An axial square of ``size_mm`` around a place, ``pixels`` wide, in [0, 1]."""
    from scipy.ndimage import map_coordinates

    from pipeline.manifest import grid_of

    grid = grid_of(row)
    steps = (np.arange(pixels) + 0.5) / pixels - 0.5
    right, front = np.meshgrid(steps * size_mm, steps * size_mm, indexing="ij")
    points = np.stack([right, front, np.zeros_like(right)], -1) + np.asarray(centre_mm)
    index = grid.index(points)
    low = np.floor(index.reshape(-1, 3).min(0)).astype(int) - 1
    size = np.ceil(index.reshape(-1, 3).max(0)).astype(int) + 2 - low
    block = store.crop(row["scan_id"], tuple(low), tuple(size))[0]
    values = map_coordinates(block.astype(np.float32), np.moveaxis(index - low, -1, 0), order=1, mode="nearest")
    return upright(normalised(values, row["window_low"][0], row["window_high"][0]))
