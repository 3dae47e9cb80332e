"""The store: crops equal slices, bytes are reproducible, damage is found."""

import numpy as np
import pytest

from pipeline.volumes.store import Store

META = {
    "spacing_mm": [1, 1, 1],
    "affine": np.eye(4).ravel().tolist(),
    "window_low": [-5, 7],
    "window_high": [50, 60],
    "slope": [1, 1],
    "inter": [0, 0],
}
SHAPE = (2, 70, 41, 133)


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 2000, SHAPE).astype(np.int16)


@pytest.fixture
def store(tmp_path, voxels) -> Store:
    store = Store(tmp_path / "store")
    store.write("ab01", voxels, voxels[0] > 0, META, {"organ": (voxels[0] % 256).astype(np.uint8)})
    return store


def test_what_is_written_is_read_again(store: Store, voxels: np.ndarray) -> None:
    np.testing.assert_array_equal(store.read("ab01"), voxels)
    np.testing.assert_array_equal(store.body("ab01"), voxels[0] > 0)
    np.testing.assert_array_equal(store.labels("ab01", "organ"), voxels[0] % 256)
    assert store.shape("ab01") == SHAPE
    assert store.tasks("ab01") == ("organ",)
    assert "ab01" in store
    assert list(store) == ["ab01"]


@pytest.mark.parametrize(
    ("low", "size"),
    [
        ((0, 0, 0), (32, 32, 32)),
        ((30, 5, 100), (40, 36, 33)),
        ((-7, 20, 120), (20, 40, 30)),
        ((60, -3, -2), (30, 60, 140)),
        ((90, 0, 0), (8, 8, 8)),
    ],
)
def test_a_crop_equals_padded_slicing(store: Store, voxels: np.ndarray, low: tuple[int, ...], size: tuple[int, ...]) -> None:
    pad = 160
    window = tuple(slice(a + pad, a + pad + n) for a, n in zip(low, size, strict=True))
    for channel, fill in enumerate(META["window_low"]):
        padded = np.pad(voxels[channel], pad, constant_values=fill)
        np.testing.assert_array_equal(store.crop("ab01", low, size)[channel], padded[window])
    np.testing.assert_array_equal(store.crop("ab01", low, size, fill=-3)[1], np.pad(voxels[1], pad, constant_values=-3)[window])
    np.testing.assert_array_equal(store.crop_labels("ab01", "organ", low, size), np.pad(voxels[0] % 256, pad)[window])


def test_two_writes_are_byte_identical_and_order_of_labels_does_not_matter(store: Store, voxels: np.ndarray, tmp_path) -> None:
    other = Store(tmp_path / "other")
    other.write("ab01", voxels.copy(order="F"), voxels[0] > 0, dict(reversed(META.items())))
    other.write_labels("ab01", "organ", (voxels[0] % 256).astype(np.uint8))
    files = sorted(path.relative_to(store.root) for path in store.root.rglob("*.*"))
    assert len(files) == 4
    for file in files:
        assert (store.root / file).read_bytes() == (other.root / file).read_bytes()


def test_a_flipped_bit_and_a_missing_file_are_found(store: Store) -> None:
    assert store.verify("ab01") == []
    path = store.root / "ab" / "ab01.b2nd"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    (store.root / "ab" / "ab01.body.b2nd").unlink()
    problems = store.verify("ab01")
    assert len(problems) == 2
    assert "ab01.b2nd: its bytes" in problems[0]
    assert "ab01.body.b2nd: is missing" in problems[1]


def test_a_scan_whose_writing_was_killed_is_not_there(store: Store, voxels: np.ndarray) -> None:
    (store.root / "ab" / "ab02.b2nd").write_bytes(b"half")
    (store.root / "ab" / ".ab02.b2nd.0011aabb.tmp").write_bytes(b"ha")
    assert list(store) == ["ab01"]
    assert store.names() == {"ab01", "ab02"}
    with pytest.raises(ValueError, match="no such scan"):
        store.meta("ab02")
    store.write("ab02", voxels, voxels[0] > 0, META)
    assert store.verify("ab02") == []
    assert not list(store.root.rglob("*.tmp"))


def test_a_rewritten_scan_loses_its_old_labels_and_cached_blocks(store: Store, voxels: np.ndarray) -> None:
    store.read("ab01")
    store.write("ab01", voxels[:1, :40] + np.int16(1), voxels[0, :40] > 0, META)
    assert store.tasks("ab01") == ()
    np.testing.assert_array_equal(store.read("ab01"), voxels[:1, :40] + 1)


def test_remove_leaves_nothing(store: Store) -> None:
    store.remove("ab01")
    assert "ab01" not in store
    assert store.names() == set()
    store.remove("ab01")


@pytest.mark.parametrize("scan_id", ["../x", "AB", "", "a/b"])
def test_a_scan_id_is_no_path(store: Store, scan_id: str) -> None:
    with pytest.raises(ValueError, match="scan_id"):
        store.meta(scan_id)


def test_wrong_arrays_are_refused(store: Store, voxels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="int16"):
        store.write("ab03", voxels.astype(np.float32), voxels[0] > 0, META)
    with pytest.raises(ValueError, match="lacks slope"):
        store.write("ab03", voxels, voxels[0] > 0, {key: value for key, value in META.items() if key != "slope"})
    with pytest.raises(ValueError, match="organ"):
        store.write_labels("ab01", "organ", np.zeros((3, 3, 3), dtype=np.uint8))
    assert "ab03" not in store
