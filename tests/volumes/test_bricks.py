"""Boxes of stored arrays: every edge and type, from many threads, and what a caller sees of a file that is damaged."""

import ctypes
import os
import threading
from collections import Counter

import numpy as np
import pytest

from pipeline.volumes import bricks
from pipeline.volumes.bricks import Bricks
from pipeline.volumes.packing import packed
from pipeline.volumes.store import Store

SHAPE = (2, 40, 33, 70)  # more than a chunk along the last axis, no multiple of a block along any
EDGES = {
    "whole": ((0, 0, 0, 0), SHAPE),
    "first voxel": ((0, 0, 0, 0), (1, 1, 1, 1)),
    "last voxel": ((1, 39, 32, 69), SHAPE),
    "one block": ((0, 16, 16, 32), (1, 32, 32, 64)),
    "across blocks": ((0, 15, 15, 31), (2, 17, 17, 33)),
    "across chunks": ((0, 3, 5, 60), (2, 9, 7, 70)),
    "a slice": ((1, 0, 0, 65), (2, 40, 33, 66)),
    "nothing": ((0, 4, 4, 4), (2, 4, 9, 9)),
}
META = {"spacing_mm": [1] * 3, "affine": np.eye(4).ravel().tolist(), "window_low": [0], "window_high": [9], "slope": 1, "inter": 0}


def made(dtype, shape=SHAPE):
    values = np.random.default_rng(0).integers(0, 50, shape) + np.arange(shape[-1]) * 10
    return (values % 251).astype(dtype)


@pytest.fixture
def write(tmp_path):
    def written(array, name="array"):
        path = tmp_path / f"{name}.b2nd"
        path.write_bytes(packed(array))
        return path

    return written


@pytest.fixture(params=["library", "python-blosc2"])
def reader(request, monkeypatch):
    """C-Blosc2 itself, and python-blosc2 where its shared library is not found."""
    if request.param == "python-blosc2":
        monkeypatch.setattr(bricks, "_library", lambda: None)
    elif bricks._library() is None:
        pytest.skip("python-blosc2 came without its shared library")


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "int64", "bool"])
def test_boxes_at_every_edge_are_those_of_the_array(dtype, write, reader):
    array = made(dtype)
    stored = Bricks(write(array))
    assert (stored.shape, stored.dtype) == (SHAPE, np.dtype(dtype))
    for name, (low, high) in EDGES.items():
        expected = array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        found = stored.read(low, high)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype), name
        np.testing.assert_array_equal(found, expected, err_msg=name)
    np.testing.assert_array_equal(stored.whole(), array)


@pytest.mark.parametrize("shape", [(5,), (1000,), (7, 9), (1, 1, 1), (65, 64, 63), (3, 1, 1, 1)])
def test_any_number_of_axes_is_read(shape, write, reader):
    array = made("int16", shape)
    np.testing.assert_array_equal(Bricks(write(array)).whole(), array)


def test_a_box_is_read_into_memory_of_the_callers_and_into_nothing_else(write, reader):
    array = made("int16")
    stored, around = Bricks(write(array)), np.full((4, 8, 8, 8), -1, np.int16)
    out = around[1:3]
    assert stored.read((0, 0, 0, 0), (2, 8, 8, 8), out) is out
    np.testing.assert_array_equal(out, array[:, :8, :8, :8])
    assert (around[[0, 3]] == -1).all()
    for wrong in (around[:2, :, :, ::-1], around[::2], around[:2].astype(np.int32), around[:1], np.asfortranarray(around[:2])):
        with pytest.raises(AssertionError):
            stored.read((0, 0, 0, 0), (2, 8, 8, 8), wrong)


@pytest.mark.parametrize(("low", "high"), [((0, 0, 0, 0), (2, 41, 33, 70)), ((0, -1, 0, 0), (2, 4, 4, 4)), ((0, 5, 5, 5), (2, 4, 6, 6)),
                                           ((0, 50, 0, 0), (1, 51, 1, 1)), ((0, 0, 0), (1, 1, 1))])  # fmt: skip
def test_what_is_no_box_of_the_array_is_a_bug_of_the_caller(low, high, write):
    with pytest.raises((AssertionError, ValueError)):
        Bricks(write(made("int16"))).read(low, high)


@pytest.mark.parametrize("length", [0, 1, 40, 0.5, -100, -1])
def test_a_truncated_file_is_refused_by_name(length, write, reader):
    path = write(made("int16"))
    data = path.read_bytes()
    path.write_bytes(data[: int(length * len(data)) if isinstance(length, float) else length])
    with pytest.raises(ValueError, match=r"array\.b2nd: .*cannot be read") if length else pytest.raises(ValueError):
        Bricks(path)


def outcomes(path, array, flips):
    """What a caller sees of a file with one bit flipped, for each flip; in a process of its own, which a crash would end."""
    data, told = path.read_bytes(), path.with_suffix(".told")
    child = os.fork()
    if not child:
        try:
            with told.open("w", buffering=1) as handle:
                for at, bit in flips:
                    damaged = bytearray(data)
                    damaged[at] ^= 1 << bit
                    path.write_bytes(damaged)
                    handle.write(seen(path, array) + "\n")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    found = told.read_text().splitlines()
    return found + ["crashed"] * (len(flips) - len(found))


def seen(path, array):
    try:
        stored = Bricks(path)
        if stored.shape != array.shape:
            return "another shape"  # of up to exabytes, so it is not read
        return "equal" if np.array_equal(stored.whole(), array) else "other voxels"
    except ValueError as error:
        return "refused" if str(path) in str(error) or "dimension" in str(error) else f"nameless: {error}"


def test_a_flipped_bit_is_refused_or_other_voxels_but_never_a_crash_and_the_store_always_refuses_it(write, tmp_path):
    array = made("int16")
    path = write(array)
    data = path.read_bytes()
    places = [*range(0, 300, 5), *range(300, len(data), len(data) // 40), *range(len(data) - 200, len(data), 10)]
    found = Counter(outcomes(path, array, [(at, number % 8) for number, at in enumerate(places)]))
    assert set(found) <= {"equal", "other voxels", "refused", "another shape"}, found
    assert found["refused"] > 10
    assert found["other voxels"] > 10, "so a digest is needed"

    store = Store(tmp_path / "store")
    store.write("ab01", array, array[0] > 5, META)
    stored = tmp_path / "store" / "ab" / "ab01.b2nd"
    for at in (0, 200, len(data) // 2, len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 4
        stored.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"ab01\.b2nd: its bytes are not those that were written; `vesalius verify"):
            Store(store.root).crop("ab01", (0, 0, 0), (4, 4, 4))


def test_many_threads_read_what_one_reads(write, reader):
    arrays = {name: made("int16") + np.int16(number) for number, name in enumerate("abc")}
    stored = {name: Bricks(write(array, name)) for name, array in arrays.items()}
    wrong, gate = [], threading.Barrier(8)

    def read(thread):
        rng = np.random.default_rng(thread)
        gate.wait()
        for _ in range(40):
            name = "abc"[rng.integers(3)]
            low = [int(rng.integers(0, n)) for n in SHAPE]
            high = [int(rng.integers(a, n)) + 1 for a, n in zip(low, SHAPE, strict=True)]
            if not np.array_equal(stored[name].read(low, high), arrays[name][tuple(map(slice, low, high))]):
                wrong.append((name, low, high))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_decoding_leaves_pythons_lock_to_others(write, monkeypatch):
    """Beside a reader another thread counts: much more than beside one that keeps the lock, as ``ctypes.PyDLL`` does."""
    library = bricks._library()
    if library is None:
        pytest.skip("python-blosc2 came without its shared library")
    keeping = ctypes.PyDLL(library._name)
    keeping.b2nd_get_slice_cbuffer.argtypes = library.b2nd_get_slice_cbuffer.argtypes
    stored = Bricks(write((np.arange(2**23) // 7 % 1000).astype(np.int16).reshape(128, 256, 256)))
    out = np.empty(stored.shape, stored.dtype)

    def counted(own):
        reading, counts = threading.Event(), []

        def count():
            number = 0
            while not reading.is_set():
                number += 1
            counts.append(number)

        with monkeypatch.context() as patched:
            patched.setattr(bricks, "_library", lambda: own)
            other = threading.Thread(target=count)
            other.start()
            for _ in range(2):
                stored.read((0, 0, 0), stored.shape, out)
            reading.set()
            other.join()
        return counts[0]

    kept, left = 0, 0
    for _ in range(2):
        kept, left = kept + counted(keeping), left + counted(library)
    assert left > 2 * kept


def test_a_small_array_is_decoded_once_and_what_was_read_of_it_is_the_callers_own(write, reader, monkeypatch):
    small, large = made("int16", (2, 20, 20, 40)), made("int16")
    counts = Counter()
    decode = Bricks._decode
    monkeypatch.setattr(Bricks, "_decode", lambda self, *given: counts.update([self.path.stem]) or decode(self, *given))
    for name, array in (("small", small), ("large", large)):
        stored = Bricks(write(array, name))
        for low in ((0, 1, 2, 3), (1, 8, 0, 9), (0, 1, 2, 3)):
            high = (low[0] + 1, *(n + 10 for n in low[1:]))
            read = stored.read(low, high)
            assert np.array_equal(read, array[tuple(map(slice, low, high))])
            read[:] = -1
    assert counts == {"small": 1, "large": 3}
