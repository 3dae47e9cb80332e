"""What the headers of a sample of images say, for `init`."""

from __future__ import annotations

from typing import Any

from anatomy.grid import Grid
from pipeline.cohorts._suggest import Header, Image
from pipeline.progress import Progress
from pipeline.scans.quarantine import Code, Refused

SAMPLE = 200
AIR_HU = -500  # below it a NIfTI of unknown modality is taken for CT


def evenly(items: list[Any], count: int = SAMPLE) -> list[Any]:
    """At most ``count`` items, from the whole list."""
    return items if len(items) <= count else [items[number * len(items) // count] for number in range(count)]


def read_headers(images: list[Image]) -> list[Header]:
    """Of a sample; a header that cannot be read is left to `index`, which says why. None at all is a ``ValueError``."""
    sample, found = evenly(images), []
    with Progress("headers", len(sample), unit="file") as progress:
        for image in sample:
            header = _dicom_header(image) if image.kind == "dicom" else _file_header(image, look=len(found) < 5)
            found += [header] if header else []
            progress.advance()
    if not found:
        raise ValueError(f"{sample[0].path}: this and {len(sample) - 1} other images have no readable header of a 3D scan; check the files")
    return found


def _dicom_header(image: Image) -> Header | None:
    import pydicom

    path = next(path for path in sorted(image.path.iterdir()) if path.is_file())
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        down, across = (float(step) for step in header.PixelSpacing)
        between = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 0)
        shape = (int(header.Columns), int(header.Rows), int(header.get("NumberOfFrames") or image.num_files))
        return Header(str(header.get("Modality", "")), shape, (across, down, abs(between))) if between else None
    except Exception:  # whatever a broken header raises, it is one image less in the sample
        return None


def _file_header(image: Image, look: bool) -> Header | None:
    from pipeline.scans.formats import metaimage, nifti
    from pipeline.scans.reading import read_scan

    known = nifti if image.kind == "nifti" else metaimage
    try:
        count = known.count_volumes(image.path)
        grid, form = _placed(image, known)
        modality = image.modality
        if not modality and look:
            part = "-".join(filter(None, [form, "0" if count > 1 else ""]))
            kind = f"{image.kind}:{part}" if part else image.kind
            modality = "CT" if float(read_scan(kind, [image.path]).voxels.min()) < AIR_HU else "MR"
    except Refused:
        return None
    return Header(modality, grid.shape, grid.spacing_mm, count, bool(form))


def _placed(image: Image, known: Any) -> tuple[Grid, str]:
    """(canonical grid, sform where the header's two places disagree and that one was taken)."""
    try:
        return known.read_grid(image.path, four_d=True).canonical()[0], ""
    except Refused as refused:
        if image.kind != "nifti" or refused.code is not Code.ORIENTATION_CONFLICT:
            raise
        return known.read_grid(image.path, four_d=True, placement="sform").canonical()[0], "sform"
