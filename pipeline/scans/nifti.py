"""NIfTI files, read whole or refused: nothing is filled in, nothing is guessed.

Caps hold before anything is allocated; a compressed stream is read to its end, so that its checksum is verified; sform and qform must
agree where both are coded. nibabel is used for the header alone.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume

MAX_SIDE = 2048
MAX_VOXELS = 2**31
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8"}
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
MAX_DISAGREEMENT_MM = 0.1
MAX_SHEAR = 1e-3


def read_nifti(path: Path | str) -> Volume:
    """voxels (C, D, H, W) float32 after scaling, on the file's own grid in RAS+ mm; raises ``Refused`` with its reason."""
    path = Path(path)
    start, stream = _start(path)
    with stream:
        header, size = _header(start)
        shape = _shape(header)
        kind = _kind(header)
        offset = _offset(header, size, pair=path.suffix == ".hdr")
        if path.suffix == ".hdr":
            raw = _read_pair(path, shape, kind, offset)
        else:
            raw = _payload(start, stream, offset, int(np.prod(shape)) * kind.itemsize)
    stored = np.frombuffer(raw, dtype=kind).reshape(shape, order="F")
    return Volume(_scaled(stored, header)[None], Grid(shape, _affine(header, shape)))


def read_grid(path: Path | str) -> Grid:
    """Where the voxels of a file lie, from its header alone; raises ``Refused``."""
    start, stream = _start(Path(path))
    with stream:
        header, _ = _header(start)
        _kind(header)
        shape = _shape(header)
        return Grid(shape, _affine(header, shape))


def is_compressed(start: bytes) -> bool:
    return start[:2] == b"\x1f\x8b"


def _start(path: Path) -> tuple[bytes, Any]:
    """The first kilobyte, inflated, and the stream that goes on behind it."""
    try:
        with path.open("rb") as plain:
            begin = plain.read(540)
        if not begin:
            raise Refused(Code.EMPTY)
        stream = gzip.open(path) if is_compressed(begin) else path.open("rb")  # noqa: SIM115
        return _inflate(stream, 540), stream
    except OSError as error:
        raise Refused(Code.CORRUPT if isinstance(error, gzip.BadGzipFile) else Code.UNREADABLE) from None


def _inflate(stream: Any, count: int) -> bytes:
    """Exactly ``count`` bytes, or fewer at the end of the stream; a broken stream is refused."""
    try:
        parts, left = [], count
        while left > 0:
            part = stream.read(min(left, 1 << 24))
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    except EOFError:
        raise Refused(Code.TRUNCATED) from None
    except (gzip.BadGzipFile, zlib.error):
        raise Refused(Code.CORRUPT) from None
    except OSError:
        raise Refused(Code.UNREADABLE) from None


def _header(start: bytes) -> tuple[Any, int]:
    """The header as nibabel parses it, native byte order, and its size."""
    import nibabel as nib

    if len(start) < 348:
        raise Refused(Code.TRUNCATED)
    for kind, size in ((nib.Nifti1Header, 348), (nib.Nifti2Header, 540)):
        for order in ("<", ">"):
            if int.from_bytes(start[:4], "little" if order == "<" else "big") == size and len(start) >= size:
                header = kind(start[:size], endianness=order, check=False)
                magic = bytes(header["magic"].tobytes())[:3]
                if magic not in (b"n+1", b"n+2", b"ni1", b"ni2"):
                    raise Refused(Code.BAD_HEADER)
                return header, size
    raise Refused(Code.BAD_HEADER)


def _shape(header: Any) -> tuple[int, int, int]:
    dims = [int(n) for n in header["dim"]]
    if dims[0] not in (3, 4, 5, 6, 7) or any(n < 1 for n in dims[1 : dims[0] + 1]):
        raise Refused(Code.DIMENSIONS)
    if any(n != 1 for n in dims[4 : dims[0] + 1]):
        raise Refused(Code.DIMENSIONS)
    shape = tuple(dims[1:4])
    if max(shape) > MAX_SIDE or int(np.prod(shape, dtype=np.int64)) > MAX_VOXELS:
        raise Refused(Code.TOO_LARGE)
    return shape


def _kind(header: Any) -> np.dtype:
    code = int(header["datatype"])
    if code not in TYPES:
        raise Refused(Code.DATA_TYPE)
    kind = np.dtype(TYPES[code]).newbyteorder(header.endianness)
    if int(header["bitpix"]) != kind.itemsize * 8:
        raise Refused(Code.BAD_HEADER)
    return kind


def _offset(header: Any, size: int, pair: bool) -> int:
    value = float(header["vox_offset"])
    least = 0 if pair else size + 4
    if not np.isfinite(value) or value != int(value) or not least <= value <= 1 << 24:
        raise Refused(Code.BAD_HEADER)
    return int(value)


def _payload(start: bytes, stream: Any, offset: int, count: int) -> bytes:
    """The voxels' bytes; then the stream must end, zero padding allowed, and its checksum must hold."""
    behind = start[offset:]
    if len(start) < offset:
        skipped = _inflate(stream, offset - len(start))
        if len(skipped) < offset - len(start):
            raise Refused(Code.TRUNCATED)
    data = behind[:count] + _inflate(stream, max(0, count - len(behind)))
    if len(data) < count:
        raise Refused(Code.TRUNCATED)
    rest = behind[count:]
    seen = 0
    while True:
        if any(rest):
            raise Refused(Code.CORRUPT)
        seen += len(rest)
        if seen > 1 << 20:
            raise Refused(Code.TOO_LARGE)
        rest = _inflate(stream, 1 << 16)
        if not rest:
            return data


def _read_pair(path: Path, shape: tuple[int, ...], kind: np.dtype, offset: int) -> bytes:
    image = path.with_suffix(".img")
    if not image.is_file():
        raise Refused(Code.TRUNCATED)
    with image.open("rb") as stream:
        return _payload(b"", stream, offset, int(np.prod(shape)) * kind.itemsize)


def _scaled(stored: np.ndarray, header: Any) -> np.ndarray:
    """stored * slope + inter in float32. Slope 0 means no scaling (the standard); one that is no number is refused."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) and not (np.isnan(slope) and (np.isnan(inter) or inter == 0)):
        raise Refused(Code.SCALING)
    if np.isnan(slope) or slope == 0:
        slope, inter = 1.0, 0.0
    if not np.isfinite(inter):
        raise Refused(Code.SCALING)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise Refused(Code.NOT_FINITE)
    values = stored.astype(np.float64 if stored.dtype.itemsize > 2 else np.float32)
    if (slope, inter) != (1.0, 0.0):
        values = values * slope + inter
    values = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise Refused(Code.NOT_FINITE)
    return values


def _affine(header: Any, shape: tuple[int, ...]) -> np.ndarray:
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
    side = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
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
