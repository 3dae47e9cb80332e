"""Bodies from formulas: one anatomy that all persons share, moved and scaled for each, with a texture of each person's own."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from anatomy.grid import Grid
from pipeline.volumes.volume import Volume

# centre and radii in units of half the body, value in HU: trunk first, later ones over earlier ones
ORGANS = (
    ((0, 0, 0), (0.88, 0.66, 1.4), 20), ((-0.42, 0.05, 0.45), (0.3, 0.42, 0.5), -800), ((0.42, 0.05, 0.45), (0.3, 0.42, 0.5), -800),
    ((0.08, 0.2, 0.35), (0.22, 0.25, 0.28), 45), ((0.35, 0.05, -0.3), (0.4, 0.42, 0.28), 60), ((-0.45, -0.2, -0.25), (0.18, 0.18, 0.2), 50),
    ((0.3, -0.35, -0.55), (0.12, 0.12, 0.2), 35), ((-0.3, -0.35, -0.55), (0.12, 0.12, 0.2), 35), ((0, -0.42, 0), (0.13, 0.14, 1.4), 400),
    ((-0.02, -0.15, 0.1), (0.07, 0.07, 1.2), 120), ((-0.25, 0.25, -0.3), (0.22, 0.18, 0.16), 10),
)  # fmt: skip


def person(seed: int, shape: tuple[int, ...] = (72, 60, 48), spacing_mm: tuple[float, ...] = (5.0, 5.0, 6.0)) -> Volume:
    """A trunk in HU, int16. Organs lie within a tenth of where everybody's do."""
    rng = np.random.default_rng(seed)
    bend = [ndimage.zoom(rng.normal(0, 0.05, (4, 4, 4)), np.array(shape) / 4, order=1) for _ in range(3)]
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")) + np.stack(bend)
    voxels = np.full(shape, -1000.0)
    scale = rng.uniform(0.92, 1.06, 3)
    for centre, radii, value in ORGANS:
        at, size = np.array(centre) + rng.normal(0, 0.03, 3), np.array(radii) * scale * rng.uniform(0.9, 1.1, 3)
        inside = (((place - at[:, None, None, None]) / size[:, None, None, None]) ** 2).sum(axis=0) <= 1
        voxels[inside] = value + rng.normal(0, 8)
    texture = sum(ndimage.gaussian_filter(rng.normal(size=shape), s) * s**1.5 for s in (1.5, 3, 6))
    voxels = ndimage.gaussian_filter(voxels, 0.6) + 15 * texture / texture.std() * (voxels > -900) + rng.normal(0, 3, shape)
    return Volume(np.rint(np.clip(voxels, -1024, 2000)).astype(np.int16)[None], Grid.of(shape, spacing_mm, (-180, -150, 40)))
