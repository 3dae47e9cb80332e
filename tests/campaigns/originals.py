"""Small valid scans of every kind that is read, as bytes by file name, and random damage to them."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from faults.dicom_coding import compress
from faults.dicom_mosaic import make_mosaic
from faults.series import STEP, make_enhanced, make_slice, save
from faults.text_files import mha, nrrd
from faults.volume_files import nifti, packed
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

Files = dict[str, bytes]
SLICES = 5
MOST_BYTES = 64  # of a range that is overwritten, taken out, put in or doubled


def originals() -> dict[str, Files]:
    """Files of one scan by kind."""
    return {
        "nii": {"scan.nii": nifti()},
        "nii.gz": {"scan.nii.gz": packed(nifti())},
        "dicom native": series(),
        "dicom rle": series(RLELossless),
        "dicom jpeg-ls": series(JPEGLSLossless),
        "dicom jpeg 2000": series(JPEG2000Lossless),
        "dicom enhanced": enhanced(),
        "dicom mosaic": saved([make_mosaic(SLICES)]),
        "nrrd raw": {"scan.nrrd": nrrd()},
        "nrrd gzip": {"scan.nrrd": nrrd(encoding="gzip")},
        "mha raw": {"scan.mha": mha()},
        "mha packed": {"scan.mha": mha(pack=True)},
    }


def series(syntax: str = "") -> Files:
    slices = [make_slice(number, number * STEP, shape=(16, 14)) for number in range(SLICES)]
    if syntax:
        for item in slices:
            compress(item, syntax)
    return saved(slices)


def enhanced() -> Files:
    return saved([make_enhanced([make_slice(number, number * STEP) for number in range(SLICES)], order=[2, 0, 4, 1, 3])])


def saved(slices: list) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in save(slices, Path(folder))}


def damaged(files: Files, draw: random.Random) -> tuple[str, bytes, str]:
    """(file, its bytes with one or two random changes, what was done to it)."""
    name = draw.choice(sorted(files))
    data, words = files[name], []
    for _ in range(1 if draw.random() < 0.9 else 2):
        change = draw.choice(CHANGES)
        place = draw.randrange(len(data)) if data else 0
        data = change(data, place, draw)
        words.append(f"{change.__name__} {place}")
    return name, data, ", ".join(words)


def _length(draw: random.Random) -> int:
    return draw.choice((1, 1, 2, 4, draw.randrange(1, MOST_BYTES)))


def flip(data: bytes, place: int, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for byte in range(place, min(len(data), place + draw.choice((1, 1, 1, 3)))):
        changed[byte] ^= 1 << draw.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, place: int, draw: random.Random) -> bytes:
    length = min(_length(draw), len(data) - place)
    return data[:place] + draw.randbytes(length) + data[place + length :]


def blank(data: bytes, place: int, draw: random.Random) -> bytes:
    length = min(_length(draw), len(data) - place)
    return data[:place] + draw.choice((b"\0", b"\xff", b" ", b"0")) * length + data[place + length :]


def take_out(data: bytes, place: int, draw: random.Random) -> bytes:
    return data[:place] + data[place + _length(draw) :]


def put_in(data: bytes, place: int, draw: random.Random) -> bytes:
    return data[:place] + draw.randbytes(_length(draw)) + data[place:]


def cut(data: bytes, place: int, draw: random.Random) -> bytes:
    return data[:place]


def double(data: bytes, place: int, draw: random.Random) -> bytes:
    end = place + _length(draw)
    return data[:end] + data[place:]


def copy_over(data: bytes, place: int, draw: random.Random) -> bytes:
    """A block of the file over another of its blocks."""
    other, length = draw.randrange(max(1, len(data))), min(_length(draw), len(data) - place)
    block = data[other : other + length]
    return data[:place] + block + data[place + len(block) :]


CHANGES = (flip, flip, overwrite, blank, take_out, put_in, cut, double, copy_over)
