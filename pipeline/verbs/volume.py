"""Write a stored volume, or its labels, as a NIfTI file at its place in the patient.

Reads the store. Values are physical again (HU for CT, the scanner's own units for MR and PET, as exact as 16 bits keep them); the grid is
the stored one (resampled and cropped as the study says), so the file lies over the scan that it came from.

\b
Examples:
  vesalius volume k3v5q2wz7d4x6yab --to scan.nii.gz
  vesalius volume k3v5q2wz7d4x6yab --to labels.nii.gz --labels hippocampus --study results/hippocampus
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.volumes.store import Store


def run(
    scan: Annotated[str, typer.Argument(metavar="ID", help="A scan_id of the store.")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write: .nii.gz or .nii.")],
    study: Annotated[
        Path | None, typer.Option("--study", help="The study's folder; default: the one in results/ that has the scan.")
    ] = None,
    labels: Annotated[str | None, typer.Option("--labels", metavar="TASK", help="The labels of this task instead of the voxels.")] = None,
    channel: Annotated[int, typer.Option("--channel", min=0, help="Of a volume of several channels.")] = 0,
) -> None:
    import numpy as np

    from anatomy.grid import Grid
    from pipeline.volumes.nifti_file import write_nifti

    store = find_store(scan, study)
    meta = store.meta(scan)
    count, *shape = meta["shape"]
    if channel >= count:
        raise ValueError(f"--channel: {scan} has the channels 0 to {count - 1}, not {channel}")
    if labels is not None and labels not in store.tasks(scan):
        raise ValueError(f"--labels: {scan} has no labels of {labels!r}; it has those of {', '.join(store.tasks(scan)) or 'no task'}")
    if labels is not None:
        values = store.labels(scan, labels)
    else:
        values = store.read(scan)[channel]
        slope, inter = meta["slope"][channel], meta["inter"][channel]
        if (slope, inter) != (1.0, 0.0):
            values = values * np.float32(slope) + np.float32(inter)
    grid = Grid(tuple(shape), np.asarray(meta["affine"]).reshape(4, 4))
    write_nifti(to, values, grid)
    typer.echo(f"volume: {scan}: {' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.4g}' for s in grid.spacing_mm)} mm in {to}")


def find_store(scan: str, study: Path | None) -> Store:
    """The store that has the scan; none, or several where no study is named, is a ``ValueError``."""
    from pipeline.folder import StudyFolder
    from pipeline.volumes.store import Store

    folders = [study] if study is not None else sorted(path for path in Path("results").glob("*") if path.is_dir())
    having = [folder for folder in folders if scan in Store(StudyFolder(folder).store)]
    if not having:
        where = f"{study}" if study is not None else "no study in results/"
        raise ValueError(f"{scan}: {where} has{' no' if study is not None else ''} such a volume; manifest.parquet of a study lists them")
    if len(having) > 1:
        raise ValueError(f"{scan}: is in {', '.join(map(str, having))}; choose one with --study")
    return Store(StudyFolder(having[0]).store)
