"""Damaged copies of good objects: read as the good one, or refused. What only changes the value of a pixel or a digit of a coordinate is
left out, since nothing in such a file could tell."""

import numpy as np
import pytest
from drawn import write
from faults.series import save
from segmentation_cases import CASES as SEGMENTATIONS
from structure_set_cases import CASES as STRUCTURE_SETS

from pipeline.labels.reading import _read
from pipeline.labels.rule import rule_of
from pipeline.scans.reading import read_scan

GOOD = {
    "segmentation": SEGMENTATIONS["segmentation on the images grid"], "label map": SEGMENTATIONS["label map"],
    "structure set": STRUCTURE_SETS["nested contours are a hole"],
}  # fmt: skip
MUTATIONS = 130


def values_of(data: bytes) -> np.ndarray:
    """Which bytes are pixels, or coordinates."""
    found = np.zeros(len(data), bool)
    pixels = data.find(b"\xe0\x7f\x10\x00OB")
    if pixels >= 0:
        found[pixels + 12 :] = True
    at = data.find(b"\x06\x30\x50\x00DS")
    while at >= 0:
        found[at + 8 : at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")] = True
        at = data.find(b"\x06\x30\x50\x00DS", at + 8)
    return found


def damaged(data: bytes, rng) -> bytes:
    """A bit turned or a byte changed outside of values; or some bytes gone from anywhere."""
    copy = bytearray(data)
    if rng.integers(3) == 0:
        at = int(rng.integers(132, len(data)))
        del copy[at : at + int(rng.integers(1, 9))]
        return bytes(copy)
    places = np.flatnonzero(~values_of(data))
    at = int(rng.choice(places[places >= 132]))
    copy[at] = copy[at] ^ (1 << int(rng.integers(8))) if rng.integers(2) else int(rng.integers(256))
    return bytes(copy)


@pytest.mark.parametrize("kind", GOOD)
def test_no_damage_gives_other_labels(kind, tmp_path):
    built, rng = GOOD[kind].build(), np.random.default_rng(7)
    paths = save(built.images, tmp_path / "image")
    path = write(built.labels[0], tmp_path / "labels.dcm")
    grid, data = read_scan("dicom", paths).canonical().grid, path.read_bytes()

    def read():
        return _read((str(path),), np.empty, rule_of(built.classes, None, **built.rule), grid, ("dicom", paths)).voxels

    good, refused = read(), 0
    for _ in range(MUTATIONS):
        path.write_bytes(damaged(data, rng))
        try:
            found = read()
        except Exception:  # in the child each becomes a refusal
            refused += 1
        else:
            assert np.array_equal(found, good)
    assert MUTATIONS / 5 < refused < MUTATIONS
