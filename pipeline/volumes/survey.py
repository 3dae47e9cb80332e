"""What one pass over the voxels of a volume finds: their digest, a sketch of their patches, means of their blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from anatomy.blocks import BlockMeans
from pipeline.volumes.planes import planes
from pipeline.volumes.sketch import Sketch
from pipeline.volumes.volume import Volume


@dataclass(frozen=True)
class Survey:
    """``digest`` (64 hexadecimal digits) is of all channels, ``sketch`` (<= 256,) uint64 and ``blocks`` are of the first."""

    digest: str
    sketch: np.ndarray
    blocks: BlockMeans


def survey(volume: Volume) -> Survey:
    """Of a canonical volume. The digest is the sha256 of shape and values, slice by slice; whole numbers that fit are hashed as int16,
    whatever type they came in."""
    kind = np.dtype(np.int16 if _is_whole(volume.voxels) else np.float32)
    blocks, sketch = BlockMeans(volume.grid.shape), Sketch(volume.voxels[0].size)
    digest = hashlib.sha256(f"{kind.str}{volume.voxels.shape}".encode())
    for number, picture in enumerate(_as(kind, volume.voxels[0])):
        digest.update(picture)
        sketch.add(picture)
        blocks.add(number, picture)
    for channel in volume.voxels[1:]:
        for picture in _as(kind, channel):
            digest.update(picture)
    while sketch.wants_more():
        for picture in _as(kind, volume.voxels[0]):
            sketch.add(picture)
    return Survey(digest.hexdigest(), sketch.hashes(), blocks)


def _as(kind: np.dtype, channel: np.ndarray) -> Iterator[np.ndarray]:
    for picture in planes(channel):
        yield picture.astype(kind, copy=False)


def _is_whole(voxels: np.ndarray) -> bool:
    """Whether int16 holds every value."""
    if voxels.dtype == np.int16:
        return True
    return all(
        bool((np.abs(picture) <= 32767).all()) and np.array_equal(np.rint(picture), picture)
        for channel in voxels
        for picture in planes(channel)
    )
