"""NRRD and MetaImage through SimpleITK, with the checks that it leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.nifti import MAX_SHEAR, MAX_SIDE, MAX_VOXELS
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume


def read_metaimage(path: Path | str) -> Volume:
    """voxels (1, D, H, W) float32 and an RAS+ affine; raises ``Refused``."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
            raise Refused(Code.DIMENSIONS)
        if max(size) > MAX_SIDE or int(np.prod(size, dtype=np.int64)) > MAX_VOXELS:
            raise Refused(Code.TOO_LARGE)
        image = reader.Execute()
    except RuntimeError:
        raise Refused(Code.CORRUPT) from None
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind not in "iuf":
        raise Refused(Code.DATA_TYPE)
    voxels = np.ascontiguousarray(array.transpose(2, 1, 0), dtype=np.float32)
    if not np.isfinite(voxels).all():
        raise Refused(Code.NOT_FINITE)
    spacing, turn = np.asarray(image.GetSpacing()), np.asarray(image.GetDirection()).reshape(3, 3)
    if (spacing <= 0).any() or np.abs(turn.T @ turn - np.eye(3)).max() > MAX_SHEAR:
        raise Refused(Code.ORIENTATION)
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = image.GetOrigin()
    return Volume(voxels[None], Grid(voxels.shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine))
