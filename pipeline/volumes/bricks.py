"""A stored array of which a box is read straight into memory that the caller owns, by C-Blosc2 and without Python's lock.

python-blosc2 holds the lock while it decodes, so that threads of it wait for each other and the training waits for them; the same
library called through ctypes does not, and writes to where the box is wanted. Where its shared library is not found (a build
that links another one), python-blosc2 reads.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import blosc2
import numpy as np

SMALL_BYTES = 1 << 18  # of an array that is decoded once and kept: its blocks together are hardly more than those of one crop
_UNREADABLE = "cannot be read ({}); `vesalius verify` lists what is broken"


class Bricks:
    """An array in a ``.b2nd`` file, kept open. Reading is safe from several threads; those of one array take turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        except (RuntimeError, ValueError, SyntaxError) as error:  # python-blosc2 parses the name of the type
            raise ValueError(f"{path}: {_UNREADABLE.format(error)}") from error
        if not isinstance(self._array, blosc2.NDArray):
            raise ValueError(f"{path}: {_UNREADABLE.format('it holds no array')}")
        self.shape, self.dtype = tuple(self._array.shape), np.dtype(self._array.dtype)
        self._lock, self._handle = threading.Lock(), ctypes.c_void_p()
        self._kept: np.ndarray | None = None
        self._bytes = _mapped(path)
        library = _library()
        if library is not None and library.b2nd_from_cframe(self._bytes.ctypes.data, len(self._bytes), False, ctypes.byref(self._handle)):
            raise ValueError(f"{path}: {_UNREADABLE.format('its frame is broken')}")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _library().b2nd_free(self._handle)

    def read(self, low: Sequence[int], high: Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
        """The box from index ``low`` up to ``high``, into ``out`` if that is given: contiguous, of the box's shape and the array's type.

        LZ4 knows no checksum: of a damaged file some blocks are a ``ValueError`` that names it, others are other voxels. Whether a file is
        what was written, ``Store`` asks before it opens one.
        """
        assert all(0 <= a <= b <= n for a, b, n in zip(low, high, self.shape, strict=True)), f"{low} to {high} is no box of {self.shape}"
        shape = tuple(int(b) - int(a) for a, b in zip(low, high, strict=True))
        if out is None:
            out = np.empty(shape, self.dtype)
        assert (out.shape, out.dtype, out.flags.c_contiguous) == (shape, self.dtype, True)
        with self._lock:
            if math.prod(self.shape) * self.dtype.itemsize > SMALL_BYTES:
                self._decode(low, high, out)
                return out
            if self._kept is None:
                kept = np.empty(self.shape, self.dtype)
                self._decode((0,) * len(self.shape), self.shape, kept)
                self._kept = kept
        out[...] = self._kept[tuple(map(slice, low, high))]
        return out

    def _decode(self, low: Sequence[int], high: Sequence[int], out: np.ndarray) -> None:
        if not self._handle:
            out[...] = self._array[tuple(map(slice, low, high))]
        elif out.size:
            indices = ctypes.c_int64 * out.ndim
            given = indices(*low), indices(*high), out.ctypes.data, indices(*out.shape), out.nbytes
            code = _library().b2nd_get_slice_cbuffer(self._handle, *given)
            if code:
                raise ValueError(f"{self.path}: {_UNREADABLE.format(f'C-Blosc2 error {code}')}")

    def whole(self) -> np.ndarray:
        return self.read((0,) * len(self.shape), self.shape)


@cache
def _library() -> ctypes.CDLL | None:
    """C-Blosc2 from the wheel of python-blosc2, which holds it a second time, or None."""
    path = Path(blosc2.__file__).parent / "lib" / "libblosc2.so"
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return None
    pointer, indices = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64)
    library.b2nd_from_cframe.argtypes = [pointer, ctypes.c_int64, ctypes.c_bool, ctypes.POINTER(pointer)]
    library.b2nd_get_slice_cbuffer.argtypes = [pointer, indices, indices, pointer, indices, ctypes.c_int64]
    library.b2nd_free.argtypes = [pointer]
    library.blosc2_init()
    return library


def _mapped(path: Path) -> np.ndarray:
    with path.open("rb") as handle:
        return np.frombuffer(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
