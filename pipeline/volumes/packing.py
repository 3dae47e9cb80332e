"""An array as the bytes of a blosc2 frame (NumPy's axes, LZ4 after bitshuffle): equal arrays give equal bytes."""

from __future__ import annotations

import blosc2
import numpy as np

BLOCK = (16, 16, 32)  # what a crop decodes too much at its faces stays small, and a block fits into the first cache
CHUNK = 64


def packed(array: np.ndarray) -> bytes:
    """Blocks of 16 x 16 x 32 in chunks of at most 64^3 along the last three axes; an array of fewer axes is one block. Of an array that
    lies in memory in another order no more than a row of chunks is copied."""
    volume = array.ndim >= 3
    chunks = tuple(min(n, CHUNK) for n in array.shape[-3:]) if volume else array.shape
    blocks = tuple(min(pair) for pair in zip(chunks, BLOCK, strict=True)) if volume else array.shape
    ones = (1,) * max(0, array.ndim - 3)
    cparams = {"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.BITSHUFFLE], "nthreads": 1}
    frame = blosc2.empty(array.shape, array.dtype, chunks=ones + chunks, blocks=ones + blocks, cparams=cparams, contiguous=True)
    step = chunks[0]
    for lead in np.ndindex(array.shape[:-3]):
        for low in range(0, array.shape[len(lead)], step):
            part = (*lead, slice(low, low + step))
            frame[part] = np.ascontiguousarray(array[part])
    return frame.to_cframe()
