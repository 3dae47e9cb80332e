"""Ways in which a scan comes back under another name. Each takes a volume and a generator, and gives the copy as its file would be read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anatomy.grid import Grid
from pipeline.volumes.resample import resample
from pipeline.volumes.volume import Volume

Disguise = Callable[[Volume, np.random.Generator], Volume]


def placed(voxels: np.ndarray, volume: Volume) -> Volume:
    """(D, H, W) with the spacing of a volume, at its origin: what places the copy in the patient is not that of the original."""
    return Volume(np.ascontiguousarray(voxels)[None], Grid.of(voxels.shape, volume.grid.spacing_mm, tuple(volume.grid.affine[:3, 3])))


def changed(volume: Volume, voxels: np.ndarray) -> Volume:
    return Volume(voxels[None], volume.grid)


def cropped(axes: tuple[int, ...], share: float) -> Disguise:
    """``share`` of each axis cut off, more or less of it at either end."""

    def crop(volume: Volume, rng: np.random.Generator) -> Volume:
        low, high = [0, 0, 0], list(volume.grid.shape)
        for axis in axes:
            cut = max(1, round(share * high[axis]))
            low[axis] = int(rng.integers(0, cut + 1))
            high[axis] -= cut - low[axis]
        return volume.cropped(tuple(low), tuple(high))

    return crop


def resampled(factor: float) -> Disguise:
    return lambda volume, rng: resample(volume, volume.grid.resampled(tuple(s * factor for s in volume.grid.spacing_mm)))


def span(volume: Volume) -> tuple[float, float]:
    """From the 1st to the 99th percentile."""
    return tuple(float(value) for value in np.percentile(volume.voxels, (1, 99)))


def windowed(volume: Volume, rng: np.random.Generator) -> Volume:
    """All below a sixth and above five sixths of the range is cut off, as by a display window; exported as 0 to 255."""
    low, high = span(volume)
    unit = np.clip(((volume.voxels[0] - low) / (high - low) - 1 / 6) * 1.5, 0, 1)
    return changed(volume, np.rint(unit * 255).astype(np.int16))


def gamma(volume: Volume, rng: np.random.Generator) -> Volume:
    low, high = span(volume)
    return changed(volume, (1000 * np.clip((volume.voxels[0] - low) / (high - low), 0, 1.2) ** rng.uniform(0.6, 1.6)).astype(np.float32))


def noisy(volume: Volume, rng: np.random.Generator) -> Volume:
    low, high = span(volume)
    return changed(volume, (volume.voxels[0] + rng.normal(0, 0.04 * (high - low), volume.grid.shape)).astype(np.float32))


def rician(volume: Volume, rng: np.random.Generator) -> Volume:
    """Magnitude of a complex signal with noise of 4 % (Gudbjartsson and Patz 1995), on another grid."""
    low, high = span(volume)
    signal = (volume.voxels[0] - min(low, float(volume.voxels.min()))) / (high - low)
    real, imaginary = (rng.normal(0, 0.04, volume.grid.shape) for _ in range(2))
    magnitude = np.rint(1000 * np.hypot(signal + real, imaginary)).astype(np.float32)
    return resampled(float(rng.uniform(0.8, 1.25)))(changed(volume, magnitude), rng)


def restacked(volume: Volume, rng: np.random.Generator) -> Volume:
    """Even slices first, then odd ones, the whole upside down: the order of another sorting."""
    slices = volume.voxels[0]
    return placed(np.concatenate([slices[..., ::2], slices[..., 1::2]], axis=-1)[..., ::-1], volume)


def middle(volume: Volume, rng: np.random.Generator) -> Volume:
    quarter = volume.grid.shape[2] // 4
    return placed(volume.voxels[0, :, :, quarter : volume.grid.shape[2] - quarter], volume)


def turned(order: tuple[int, int, int], signs: tuple[int, int, int]) -> Disguise:
    """A quarter turn that the header says nothing of."""

    def turn(volume: Volume, rng: np.random.Generator) -> Volume:
        return placed(volume.voxels[0].transpose(order)[:: signs[0], :: signs[1], :: signs[2]], volume)

    return turn


DISGUISES: dict[str, Disguise] = {
    "another name": lambda volume, rng: volume,
    "spacing rewritten to 1 mm": lambda volume, rng: Volume(volume.voxels, Grid.of(volume.grid.shape, (1, 1, 1))),
    "int16 as float32": lambda volume, rng: changed(volume, volume.voxels[0].astype(np.float32)),
    "mirrored left to right": lambda volume, rng: placed(volume.voxels[0, ::-1], volume),
    "mirrored front to back": lambda volume, rng: placed(volume.voxels[0, :, ::-1], volume),
    "mirrored top to bottom": lambda volume, rng: placed(volume.voxels[0, :, :, ::-1], volume),
    "turned by 90 degrees in plane": turned((1, 0, 2), (1, -1, 1)),
    "turned by 90 degrees, coronal as axial": turned((0, 2, 1), (1, 1, -1)),
    "turned by 90 degrees, sagittal as axial": turned((2, 1, 0), (-1, 1, 1)),
    **{
        f"cropped by {share:.0%} {where}": cropped(axes, share)
        for share in (0.05, 0.15, 0.3)
        for where, axes in (("left to right", (0,)), ("front to back", (1,)), ("top to bottom", (2,)), ("along every axis", (0, 1, 2)))
    },
    "slices in another order": restacked,
    "every second slice": lambda volume, rng: placed(volume.voxels[0, :, :, ::2], volume),
    "half of its slices": middle,
    "scaled and shifted values": lambda volume, rng: changed(volume, volume.voxels[0].astype(np.float32) * 0.37 + 11.3),
    "windowed to 8 bits": windowed,
    "gamma": gamma,
    "noise of 4 %": noisy,
    **{f"resampled to {factor} of its spacing": resampled(factor) for factor in (0.7, 0.85, 1.2, 1.4)},
    "Rician noise, resampled": rician,
    "cropped by 15 % along every axis, resampled": lambda volume, rng: resampled(1.2)(cropped((0, 1, 2), 0.15)(volume, rng), rng),
    "mirrored left to right, resampled": lambda volume, rng: resampled(1.2)(placed(volume.voxels[0, ::-1], volume), rng),
    "turned by 90 degrees in plane, resampled": lambda volume, rng: resampled(1.2)(turned((1, 0, 2), (1, -1, 1))(volume, rng), rng),
    "windowed, cropped by 5 %, resampled": lambda volume, rng: resampled(1.2)(cropped((0, 1, 2), 0.05)(windowed(volume, rng), rng), rng),
}  # fmt: skip
