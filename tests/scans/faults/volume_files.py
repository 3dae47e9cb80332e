"""NIfTI, NRRD and MetaImage files of the analytic field, byte by byte, so that a case can spoil any of them."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from faults.outcome import Outcome
from faults.phantom import LPS_TO_RAS, centres, field, turned

from anatomy.grid import Grid

SHAPE = (10, 9, 8)
SPACING = np.array([1.5, 1.25, 2.5])
TYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "c8": 32, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280, "f16": 1536}


def affine_of(turn=None, spacing=SPACING, origin=(-9.0, 6.0, 3.0)) -> np.ndarray:
    """Index to RAS+ mm."""
    affine = np.eye(4)
    affine[:3, :3] = (turned(10, -20, 30) if turn is None else np.asarray(turn, float)) * spacing
    affine[:3, 3] = origin
    return affine


OBLIQUE = affine_of()


def values_of(affine=OBLIQUE, shape=SHAPE) -> np.ndarray:
    """(*shape): the field where an affine to RAS+ puts the voxels."""
    return field(centres(LPS_TO_RAS @ affine, shape))


def raw_of(values, kind: str, order: str = "<") -> bytes:
    """Stored bytes; whole numbers are rounded."""
    kind = np.dtype(kind)
    values = np.rint(values) if kind.kind in "iu" else np.asarray(values)
    return values.astype(kind.newbyteorder(order)).tobytes(order="F")


def nifti(
    affine=OBLIQUE, shape=SHAPE, kind="i2", order="<", version=1, forms="sq", values=None, slope=1.0, inter=0.0, extension=b"",
    gap=0, pair=False, split=False, **fields,
):  # fmt: skip
    """The bytes of a NIfTI file. ``forms``: s, q or both; ``fields`` overwrite the header's last; ``split``: (header, voxels)."""
    header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness=order)
    header["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    header["datatype"], header["bitpix"] = TYPES[kind], np.dtype(kind).itemsize * 8
    header.set_qform(affine, 1 if "q" in forms else 0)
    header.set_sform(affine, 1 if "s" in forms else 0)
    header["pixdim"][4:] = 1
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = slope, inter
    header["magic"] = {(1, False): b"n+1", (1, True): b"ni1", (2, False): b"n+2", (2, True): b"ni2"}[version, pair]
    between = bytes([bool(extension), 0, 0, 0]) + extension + bytes(gap)
    header["vox_offset"] = 0 if pair else header.sizeof_hdr + len(between)
    for name, value in fields.items():
        header[name] = value
    values = values_of(affine, shape[:3]).reshape(shape) if values is None else values
    raw = raw_of((values - inter) / slope if np.isfinite(slope) and slope else values, kind, order)
    parts = header.binaryblock + between, raw
    return parts if split else b"".join(parts)


def put(folder: Path, name: str, data: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def packed(data: bytes, level: int = 6) -> bytes:
    return gzip.compress(data, level, mtime=0)


def at(data: bytes, place: int, *, xor: int = 0x10) -> bytes:
    """One byte changed; a negative place counts from the end."""
    changed = bytearray(data)
    changed[place] ^= xor
    return bytes(changed)


def holds(affine=OBLIQUE, shape=SHAPE, values=None, tolerance=0.0, kind=None) -> Callable[[Outcome], bool]:
    """Whether each volume lies where it should to 1e-4 mm and has the field's rounded values there, or others, to a tolerance."""

    def check(outcome: Outcome) -> bool:
        expected = np.rint(values_of(affine, shape)) if values is None else values
        for volume in outcome.volumes:
            if volume.grid.shape != tuple(shape) or (kind is not None and volume.voxels.dtype != kind):
                return False
            if np.abs(volume.grid.corners_mm() - Grid(shape, affine).corners_mm()).max() > 1e-4:
                return False
            if not (np.abs(volume.voxels[0].astype(float) - expected) <= tolerance).all():
                return False
        return True

    return check
