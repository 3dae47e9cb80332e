"""The NIfTI-1 and NIfTI-2 header: what it must say before a voxel is read. nibabel parses it; what it lets pass is checked here."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.scans.formats.payload import check_count, check_shape
from pipeline.scans.placement import grid_of
from pipeline.scans.quarantine import Code, Refused

MAGIC = {  # (348, voxels in a file of their own): NIfTI-2's ends like that of PNG, so that a copy in text mode shows
    (348, False): b"n+1\0", (348, True): b"ni1\0", (540, False): b"n+2\0\r\n\x1a\n", (540, True): b"ni2\0\r\n\x1a\n",
}  # fmt: skip
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8"}
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
MAX_DISAGREEMENT_MM = 0.1
ROUNDING = 5e-7  # of 1 - b^2 - c^2 - d^2, whose three terms are float32


def parse(start: bytes, pair: bool) -> tuple[Any, int]:
    """The header as nibabel parses it and its size; ``pair``: the voxels lie in a file of their own."""
    import nibabel as nib

    if len(start) < 348:
        raise Refused(Code.TRUNCATED)
    for kind, size in ((nib.Nifti1Header, 348), (nib.Nifti2Header, 540)):
        for order in ("<", ">"):
            if int.from_bytes(start[:4], "little" if order == "<" else "big") == size and len(start) >= size:
                magic = start[344:348] if size == 348 else start[4:12]
                if magic != MAGIC[size, pair]:
                    raise Refused(Code.BAD_HEADER)
                return kind(start[:size], endianness=order, check=False), size
    raise Refused(Code.BAD_HEADER)


def shape_of(header: Any, four_d: bool = False) -> tuple[int, int, int]:
    """Of one volume; ``four_d``: several along the fourth axis are fine."""
    dims = [int(n) for n in header["dim"]]
    if dims[0] not in (3, 4, 5, 6, 7) or any(n < 1 for n in dims[1 : dims[0] + 1]):
        raise Refused(Code.DIMENSIONS)
    if any(n != 1 for n in dims[5 if four_d else 4 : dims[0] + 1]):
        raise Refused(Code.DIMENSIONS)
    return check_shape(dims[1:4])


def count_of(header: Any) -> int:
    """Volumes along the fourth axis."""
    return check_count(int(header["dim"][4])) if int(header["dim"][0]) >= 4 else 1


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


def check_extensions(between: bytes, order: str) -> None:
    """What stands between header and voxels: extensions, if any, must end before the voxels begin."""
    at, kind = 4, "little" if order == "<" else "big"
    if len(between) < 4 or not between[0]:
        return
    while at + 8 <= len(between):
        size = int.from_bytes(between[at : at + 4], kind)
        if size == 0:
            break
        if size < 8 or at + size > len(between):
            raise Refused(Code.BAD_HEADER)
        at += size


def affine_of(header: Any, shape: tuple[int, int, int], placement: str = "") -> np.ndarray:
    """Index to RAS+ mm. Where both forms are coded they must agree to a tenth of a millimetre at every corner; where only sform is, its
    axes must be as long as pixdim says, to the same tenth. ``placement`` (sform or qform) names the one that counts where both are coded;
    the other is not looked at then."""
    unit = int(header["xyzt_units"]) & 7
    if unit not in MM_PER_UNIT:
        raise Refused(Code.BAD_HEADER)
    spacing = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise Refused(Code.PIXEL_SPACING)
    found = []
    coded = {form for form in ("sform", "qform") if int(header[f"{form}_code"]) > 0}
    if placement and len(coded) == 2:
        coded = {placement}
    if "sform" in coded:
        found.append(np.vstack([header["srow_x"], header["srow_y"], header["srow_z"], [0, 0, 0, 1]]).astype(np.float64))
    if "qform" in coded:
        found.append(_qform(header, spacing, found[0] if found else None))
    if not found:
        raise Refused(Code.ORIENTATION)
    for affine in found:
        affine[:3] *= MM_PER_UNIT[unit]
    grids = [grid_of(shape, affine) for affine in found]
    if len(grids) == 2:
        apart = np.abs(grids[0].corners_mm() - grids[1].corners_mm()).max()
    else:
        apart = np.abs((np.asarray(grids[0].spacing_mm) - spacing * MM_PER_UNIT[unit]) * (np.asarray(shape) - 1)).max()
    if apart > MAX_DISAGREEMENT_MM:
        raise Refused(Code.ORIENTATION_CONFLICT)
    return found[0]


def _qform(header: Any, spacing: np.ndarray, sform: np.ndarray | None) -> np.ndarray:
    """The quaternion's first part is known through the root of a small difference only: near half a turn its rounding moves corners by
    millimetres. Within that rounding the first part of ``sform`` is taken."""
    side = float(header["pixdim"][0])
    b, c, d = (float(header[name]) for name in ("quatern_b", "quatern_c", "quatern_d"))
    squared = 1.0 - (b * b + c * c + d * d)
    if side not in (-1.0, 0.0, 1.0) or not np.isfinite(squared) or squared < -1e-5:
        raise Refused(Code.ORIENTATION)
    side = side or 1.0
    hint = None if sform is None else _first_part(sform, side)
    squared = hint if hint is not None and abs(hint - squared) < ROUNDING else max(squared, 0.0)
    a, b, c, d = np.array([np.sqrt(squared), b, c, d]) / np.sqrt(squared + b * b + c * c + d * d)
    turn = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    affine = np.eye(4)
    affine[:3, :3] = turn * (spacing * [1.0, 1.0, side])
    affine[:3, 3] = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    return affine


def _first_part(sform: np.ndarray, side: float) -> float | None:
    """Squared first part of the quaternion that the axes of an affine make."""
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        return None
    return max(0.0, 1.0 + float((np.diag(sform)[:3] / lengths * [1.0, 1.0, side]).sum())) / 4
