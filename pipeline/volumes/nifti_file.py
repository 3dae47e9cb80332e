"""A volume as a NIfTI-1 file: sform and qform say the same, no word of text stands in the header, equal volumes give equal bytes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from anatomy.grid import Grid
from pipeline.files import replacing

LEVEL = 4  # of gzip: a third of the time of its default for 4 % more bytes
SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT


def write_nifti(path: Path | str, voxels: np.ndarray, grid: Grid) -> None:
    """voxels (D, H, W) on their grid to ``.nii.gz`` or ``.nii``, in the smallest of int16, uint16, int32 and float32 that holds every value
    (uint8 stays); memory beyond the voxels is that of one slice. Another ending is a ``ValueError``."""
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: must end in .nii.gz or .nii")
    kind = smallest_type(voxels)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", LEVEL, stream, mtime=0) as packed:
                _write(packed, voxels, kind, grid)
        else:
            _write(stream, voxels, kind, grid)


def smallest_type(voxels: np.ndarray) -> np.dtype:
    """In which no value changes."""
    if voxels.dtype in (np.uint8, np.int16):
        return voxels.dtype
    if all(np.array_equal(np.rint(slab), slab) for slab in voxels):
        low, high = float(voxels.min()), float(voxels.max())
        for kind in (np.int16, np.uint16, np.int32):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return np.dtype(kind)
    return np.dtype(np.float32)


def _write(stream: BinaryIO | gzip.GzipFile, voxels: np.ndarray, kind: np.dtype, grid: Grid) -> None:
    stream.write(_header(kind, grid).binaryblock)
    stream.write(bytes(4))  # no extension follows
    for number in range(voxels.shape[2]):
        stream.write(voxels[:, :, number].astype(kind).tobytes(order="F"))


def _header(kind: np.dtype, grid: Grid) -> Any:
    import nibabel

    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(kind.newbyteorder("<"))
    header.set_data_shape(grid.shape)
    header.set_qform(grid.affine, SCANNER, strip_shears=True)
    header.set_sform(grid.affine, SCANNER)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1.0, 0.0)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return header
