"""Twins are found under every disguise, and unlike scans are left alone."""

from collections.abc import Callable

import numpy as np
import pytest

from anatomy.body import find_body
from anatomy.grid import Grid
from pipeline.volumes.fingerprint import Fingerprint, fingerprint
from pipeline.volumes.resample import resample
from pipeline.volumes.survey import survey
from pipeline.volumes.twins import find_twins, likeness, nominate, posed
from pipeline.volumes.volume import Volume


def prints(volume: Volume) -> Fingerprint:
    found = survey(volume.canonical())
    return fingerprint(found, find_body(found.blocks, "MR"))


def voxel_digest(voxels: np.ndarray) -> str:
    return survey(Volume(voxels, Grid.of(voxels.shape[1:], (1, 1, 1)))).digest


def noisy(volume: Volume) -> Volume:
    return Volume((volume.voxels + np.random.default_rng(5).normal(size=volume.voxels.shape) * 40).astype(np.float32), volume.grid)


def finer(volume: Volume) -> Volume:
    return resample(volume, volume.grid.resampled((1.5, 1.7, 2.0)))


def turned(volume: Volume) -> Volume:
    return Volume(volume.voxels.transpose(0, 3, 1, 2), Grid(tuple(np.roll(volume.grid.shape, 1)), volume.grid.affine[:, [2, 0, 1, 3]]))


DISGUISES: dict[str, tuple[str, Callable[[Volume], Volume]]] = {
    "another spacing in the header": ("voxels", lambda v: Volume(v.voxels, Grid.of(v.grid.shape, (1, 1, 1)))),
    "another axis order": ("voxels", turned),
    "floats": ("voxels", lambda v: Volume(v.voxels.astype(np.float32), v.grid)),
    "a crop in z": ("patches", lambda v: v.cropped((0, 0, 8), (*v.grid.shape[:2], 26))),
    "a quarter turn in plane": ("patches", lambda v: Volume(v.voxels.transpose(0, 2, 1, 3)[:, ::-1], Grid.of((48, 40, 36), (2, 2, 2.5)))),
    "coronal slices as axial ones": ("likeness", lambda v: Volume(v.voxels.transpose(0, 1, 3, 2), Grid.of((40, 36, 48), (2, 2.5, 2)))),
    "a crop in plane": ("patches", lambda v: v.cropped((8, 10, 0), (30, 34, v.grid.shape[2]))),
    "a mirror": ("patches", lambda v: Volume(v.voxels[:, ::-1, ::-1], v.grid)),
    "every second slice": ("patches", lambda v: Volume(v.voxels[..., ::2], Grid.of((*v.grid.shape[:2], 18), (2, 2, 5)))),
    "a clipped window": ("patches", lambda v: Volume(np.clip(v.voxels, 300, 800), v.grid)),
    "noise": ("likeness", noisy),
    "other voxels": ("likeness", finer),
    "a window and a gamma": ("likeness", lambda v: Volume((np.clip(v.voxels / 900.0, 0.2, 1) ** 0.7).astype(np.float32), v.grid)),
    "a mirror and other voxels": ("likeness", lambda v: finer(Volume(v.voxels[:, ::-1], v.grid))),
    "a tenth cut off, other voxels": ("likeness", lambda v: finer(v.cropped((0, 2, 3), (36, 46, 36)))),
}  # fmt: skip


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_disguised_copy_is_found_among_others(disguise: str, make_phantom: Callable[[int], Volume]) -> None:
    kind, change = DISGUISES[disguise]
    volumes = {f"scan{seed}": make_phantom(seed) for seed in range(5)}
    volumes["scan9"] = change(volumes["scan2"])
    found = find_twins({scan: prints(volume) for scan, volume in volumes.items()})
    assert [(twin.scan_a, twin.scan_b, twin.kind) for twin in found] == [("scan2", "scan9", kind)]


def test_unlike_scans_are_no_twins(make_phantom: Callable[[int], Volume]) -> None:
    assert find_twins({f"scan{seed:02d}": prints(make_phantom(seed)) for seed in range(12)}) == []


def test_no_scans_and_one_scan_have_no_twins(phantom: Volume) -> None:
    assert find_twins({}) == []
    assert find_twins({"one": prints(phantom)}) == []


def test_many_copies_are_linked_into_one_chain(phantom: Volume) -> None:
    found = find_twins({f"scan{number:02d}": prints(phantom) for number in range(20)})
    linked = {(twin.scan_a, twin.scan_b) for twin in found}
    assert {(f"scan{n:02d}", f"scan{n + 1:02d}") for n in range(19)} <= linked


def test_background_of_low_noise_makes_no_shared_patches() -> None:
    rng = np.random.default_rng(0)
    pictures = [Volume(rng.integers(0, 6, (1, 40, 40, 40)).astype(np.int16), Grid.of((40, 40, 40), (1, 1, 1))) for _ in range(2)]
    assert len(prints(pictures[0]).sketch) == 0


def test_the_digest_depends_on_values_and_shape_only(phantom: Volume) -> None:
    voxels = phantom.voxels
    assert voxel_digest(voxels) == voxel_digest(voxels.astype(np.float64))
    assert voxel_digest(voxels) != voxel_digest(voxels + np.int16(1))
    assert voxel_digest(voxels) != voxel_digest(voxels.reshape(1, *voxels.shape[2:], voxels.shape[1]))
    assert voxel_digest(voxels + 0.25) != voxel_digest(voxels)


def test_a_fingerprint_survives_packing(phantom: Volume) -> None:
    first = prints(phantom)
    second = Fingerprint.unpacked(first.packed().tobytes())
    assert second.digest == first.digest
    np.testing.assert_array_equal(second.sketch, first.sketch)
    np.testing.assert_array_equal(second.thumbnail, first.thumbnail)


def test_likeness_is_one_for_itself_and_the_mirror_is_nominated(make_phantom: Callable[[int], Volume]) -> None:
    thumbnails = np.stack([prints(make_phantom(seed)).thumbnail for seed in range(3)])
    assert likeness(thumbnails[0], thumbnails[0]) == pytest.approx(1.0)
    both = np.stack([thumbnails[0], thumbnails[0][::-1, :, ::-1]])
    assert nominate(both) == [(0, 1, ((0, 1, 2), (-1, 1, -1)))]
    both = np.stack([thumbnails[0], thumbnails[0].transpose(2, 0, 1)[:, ::-1]])
    for first, second in (both, both[::-1]):
        ((_, _, pose),) = nominate(np.stack([first, second]))
        np.testing.assert_array_equal(posed(second, pose), first)
