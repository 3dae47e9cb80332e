"""NRRD and MetaImage through SimpleITK, with the checks that it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.nifti import MAX_SHEAR, MAX_SIDE, MAX_VOXELS
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume


def read_metaimage(path: Path | str) -> Volume:
    """voxels (1, D, H, W) float32 and an RAS+ affine; raises ``Refused``."""
    import SimpleITK as sitk

    reader = _information(path)
    try:
        image = reader.Execute()
    except RuntimeError:
        raise Refused(Code.CORRUPT) from None
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind not in "iuf":
        raise Refused(Code.DATA_TYPE)
    voxels = np.ascontiguousarray(array.transpose(2, 1, 0), dtype=np.float32)
    if not np.isfinite(voxels).all():
        raise Refused(Code.NOT_FINITE)
    return Volume(voxels[None], _grid(reader))


def read_grid(path: Path | str) -> Grid:
    """Where the voxels of a file lie, from its header alone; raises ``Refused``."""
    return _grid(_information(path))


def _information(path: Path | str) -> Any:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise Refused(Code.CORRUPT) from None
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise Refused(Code.DIMENSIONS)
    size = reader.GetSize()
    if max(size) > MAX_SIDE or int(np.prod(size, dtype=np.int64)) > MAX_VOXELS:
        raise Refused(Code.TOO_LARGE)
    return reader


def _grid(reader: Any) -> Grid:
    spacing, turn = np.asarray(reader.GetSpacing()), np.asarray(reader.GetDirection()).reshape(3, 3)
    if (spacing <= 0).any() or np.abs(turn.T @ turn - np.eye(3)).max() > MAX_SHEAR:
        raise Refused(Code.ORIENTATION)
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = reader.GetOrigin()
    return Grid(tuple(reader.GetSize()), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
