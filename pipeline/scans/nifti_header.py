"""The NIfTI-1 and NIfTI-2 header: what it must say before a voxel is read. nibabel parses it; what it lets pass is checked here."""

from __future__ import annotations

from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.quarantine import Code, Refused

MAX_SIDE = 2048
MAX_VOXELS = 2**31
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8"}
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
MAX_DISAGREEMENT_MM = 0.1
MAX_SHEAR = 1e-3


def parse(start: bytes, pair: bool) -> tuple[Any, int]:
    """The header as nibabel parses it and its size; ``pair``: the voxels lie in a file of their own."""
    import nibabel as nib

    if len(start) < 348:
        raise Refused(Code.TRUNCATED)
    for kind, size in ((nib.Nifti1Header, 348), (nib.Nifti2Header, 540)):
        for order in ("<", ">"):
            if int.from_bytes(start[:4], "little" if order == "<" else "big") == size and len(start) >= size:
                header = kind(start[:size], endianness=order, check=False)
                magic = bytes(header["magic"].tobytes())[:3]
                if magic not in ((b"ni1", b"ni2") if pair else (b"n+1", b"n+2")):
                    raise Refused(Code.BAD_HEADER)
                return header, size
    raise Refused(Code.BAD_HEADER)


def shape_of(header: Any, four_d: bool = False) -> tuple[int, int, int]:
    """Of one volume; ``four_d``: several along the fourth axis are fine."""
    dims = [int(n) for n in header["dim"]]
    if dims[0] not in (3, 4, 5, 6, 7) or any(n < 1 for n in dims[1 : dims[0] + 1]):
        raise Refused(Code.DIMENSIONS)
    if any(n != 1 for n in dims[5 if four_d else 4 : dims[0] + 1]):
        raise Refused(Code.DIMENSIONS)
    shape = tuple(dims[1:4])
    if max(shape) > MAX_SIDE or int(np.prod(shape, dtype=np.int64)) > MAX_VOXELS:
        raise Refused(Code.TOO_LARGE)
    return shape


def count_of(header: Any) -> int:
    """Volumes along the fourth axis."""
    return int(header["dim"][4]) if int(header["dim"][0]) >= 4 else 1


def kind_of(header: Any) -> np.dtype:
    code = int(header["datatype"])
    if code not in TYPES:
        raise Refused(Code.DATA_TYPE)
    kind = np.dtype(TYPES[code]).newbyteorder(header.endianness)
    if int(header["bitpix"]) != kind.itemsize * 8:
        raise Refused(Code.BAD_HEADER)
    return kind


def offset_of(header: Any, size: int, pair: bool) -> int:
    value = float(header["vox_offset"])
    least = 0 if pair else size + 4
    if not np.isfinite(value) or value != int(value) or not least <= value <= 1 << 24:
        raise Refused(Code.BAD_HEADER)
    return int(value)


def scaling_of(header: Any) -> tuple[float, float]:
    """(slope, intercept). Slope 0 and NaN mean no scaling (the standard, and nibabel); other non-numbers are refused."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isnan(slope) and (np.isnan(inter) or inter == 0):
        return 1.0, 0.0
    if not np.isfinite(slope):
        raise Refused(Code.SCALING)
    if slope == 0:
        return 1.0, 0.0
    if not np.isfinite(inter):
        raise Refused(Code.SCALING)
    return slope, inter


def affine_of(header: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Index to RAS+ mm. Where both forms are coded they must agree to a tenth of a millimetre at every corner."""
    unit = int(header["xyzt_units"]) & 7
    if unit not in MM_PER_UNIT:
        raise Refused(Code.BAD_HEADER)
    spacing = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise Refused(Code.PIXEL_SPACING)
    found = []
    if int(header["sform_code"]) > 0:
        found.append(np.vstack([header["srow_x"], header["srow_y"], header["srow_z"], [0, 0, 0, 1]]).astype(np.float64))
    if int(header["qform_code"]) > 0:
        found.append(_qform(header, spacing))
    if not found:
        raise Refused(Code.ORIENTATION)
    for affine in found:
        _check_affine(affine)
        affine[:3] *= MM_PER_UNIT[unit]
    if len(found) == 2:
        apart = np.abs(Grid(shape, found[0]).corners_mm() - Grid(shape, found[1]).corners_mm()).max()
        if apart > MAX_DISAGREEMENT_MM:
            raise Refused(Code.ORIENTATION_CONFLICT)
    return found[0]


def _qform(header: Any, spacing: np.ndarray) -> np.ndarray:
    b, c, d = (float(header[name]) for name in ("quatern_b", "quatern_c", "quatern_d"))
    squared = 1.0 - (b * b + c * c + d * d)
    if not np.isfinite(squared) or squared < -1e-5:
        raise Refused(Code.ORIENTATION)
    a = np.sqrt(max(squared, 0.0))
    turn = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    side = float(header["pixdim"][0])
    if not np.isfinite(side):
        raise Refused(Code.ORIENTATION)
    side = -1.0 if side < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = turn * (spacing * [1.0, 1.0, side])
    affine[:3, 3] = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    return affine


def _check_affine(affine: np.ndarray) -> None:
    """Finite, axes of positive length, and no shear: a sheared grid is no grid of cubes."""
    if not np.isfinite(affine).all():
        raise Refused(Code.ORIENTATION)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths < 1e-6).any():
        raise Refused(Code.ORIENTATION)
    cosines = (affine[:3, :3] / lengths).T @ (affine[:3, :3] / lengths)
    if np.abs(cosines - np.eye(3)).max() > MAX_SHEAR:
        raise Refused(Code.ORIENTATION)
