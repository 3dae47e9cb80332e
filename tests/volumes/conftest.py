"""Phantoms without a symmetry, so that a wrong axis or flip cannot hide."""

import numpy as np
import pytest
from scipy import ndimage

from anatomy.grid import Grid
from pipeline.volumes.volume import Volume


def body_phantom(seed: int, shape: tuple[int, int, int] = (40, 48, 36), spacing: tuple[float, ...] = (2.0, 2.0, 2.5)) -> Volume:
    """An ellipsoid of seeded texture in air, MR-like whole numbers."""
    rng = np.random.default_rng(seed)
    texture = sum(ndimage.gaussian_filter(rng.normal(size=shape), s) * s**1.5 for s in (1, 2, 4))
    index = np.indices(shape).reshape(3, -1).T
    centre, radii = np.array(shape) / 2, np.array(shape) * 0.42
    inside = (((index - centre) / radii) ** 2).sum(axis=1).reshape(shape) <= 1
    voxels = np.where(inside, 600 + 150 * texture / texture.std() + 5 * rng.normal(size=shape), 3 * np.abs(rng.normal(size=shape)))
    return Volume(np.rint(np.clip(voxels, 0, 4000)).astype(np.int16)[None], Grid.of(shape, spacing, (-30, 12, 55)))


@pytest.fixture
def phantom() -> Volume:
    return body_phantom(0)


@pytest.fixture
def make_phantom():
    return body_phantom
