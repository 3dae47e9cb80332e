"""From physical values to the stored int16, with the contract that normalises them everywhere.

x = clamp((stored - window_low) / (window_high - window_low), 0, 1) per channel, and stored * slope + inter is the physical value again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.volumes.volume import Volume

RANGE = 8000  # stored values between the two percentiles; tails keep 3 such ranges above and 4 below before int16 ends


@dataclass(frozen=True)
class Contract:
    """One value a channel each: what ``window_low``, ``window_high``, ``slope``, ``inter`` mean is said above."""

    window_low: tuple[float, ...]
    window_high: tuple[float, ...]
    slope: tuple[float, ...]
    inter: tuple[float, ...]


def to_stored(
    volume: Volume,
    body: np.ndarray,
    modalities: tuple[str, ...],
    window_hu: tuple[float, float] = (-1000.0, 1000.0),
    percentiles: tuple[float, float] = (0.5, 99.5),
) -> tuple[np.ndarray, Contract]:
    """voxels (C, D, H, W) int16 and their contract; ``modalities`` names one a channel, body is (D, H, W) bool.

    CT is stored in HU. Other values mean nothing by themselves: the two percentiles of the body's voxels become 0 and 8000. A
    channel whose percentiles coincide is a ``ValueError``: it holds no picture.
    """
    stored, rows = [], []
    for channel, modality in zip(volume.voxels, modalities, strict=True):
        values, row = _ct(channel, window_hu) if modality == "CT" else _relative(channel[body], channel, percentiles)
        stored.append(values)
        rows.append(row)
    return stored[0][None] if len(stored) == 1 else np.stack(stored), Contract(*(tuple(column) for column in zip(*rows, strict=True)))


def foreground(stored: np.ndarray, body: np.ndarray, modalities: tuple[str, ...], contract: Contract) -> list[dict[str, float] | None]:
    """Of each channel but CT, whose values mean something by themselves: mean and standard deviation of the body, in the file's values."""
    found: list[dict[str, float] | None] = []
    for channel, modality, slope, inter in zip(stored, modalities, contract.slope, contract.inter, strict=True):
        inside = channel[body].astype(np.float64) if modality != "CT" else np.empty(0)
        found.append({"mean": float(inside.mean()) * slope + inter, "std": float(inside.std()) * slope} if inside.size else None)
    return found


def _ct(channel: np.ndarray, window_hu: tuple[float, float]) -> tuple[np.ndarray, tuple[float, ...]]:
    return _to_int16(channel), (float(window_hu[0]), float(window_hu[1]), 1.0, 0.0)


def _relative(inside: np.ndarray, channel: np.ndarray, percentiles: tuple[float, float]) -> tuple[np.ndarray, tuple[float, ...]]:
    low, high = (float(value) for value in np.percentile(inside, percentiles))
    if not high > low:
        raise ValueError(f"the {percentiles[0]} and {percentiles[1]} percentiles of the body are both {low:g}")
    slope = (high - low) / RANGE
    return _to_int16((channel.astype(np.float32) - np.float32(low)) / np.float32(slope)), (0.0, float(RANGE), slope, low)


def _to_int16(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.int16:
        return values
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)
