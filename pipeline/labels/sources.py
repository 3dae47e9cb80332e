"""What a worker of `preprocess` is handed of labels, and how it reads a scan or its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatomy.grid import Grid
from pipeline.files import digest, digest_of
from pipeline.labels.masks import Masks, RefusedMasks, masks_of, read_masks
from pipeline.labels.reading import read_labels
from pipeline.scans.content import with_voxels
from pipeline.scans.patience import patiently
from pipeline.scans.quarantine import REASONS, Refused
from pipeline.scans.reading import Limits, read_scan
from pipeline.volumes.jobs import LabelSource, Part, RefusedVolumeError, form_of
from pipeline.volumes.volume import Volume

if TYPE_CHECKING:
    from pipeline.task import Task


def label_source(task: Task, known: Mapping[str, str], part: Part, paths: tuple[str, ...]) -> LabelSource:
    """The labels of one task: a label volume, masks of one structure each, or DICOM objects drawn on a part. ``known``: what each label
    file is. The task says which form of a NIfTI header counts; else it is the one that counts of the image."""
    rule, form = task.rule(), task.placement or form_of(part.kind)
    kinds = [f"nifti:{form}" if known[path] == "nifti" and form else known[path] for path in paths]
    if kinds[0] == "dicom":
        return LabelSource("dicom", paths, rule.classes, rule, (part.kind, part.paths))
    if (claims := task.mask_rule()) is not None:
        return LabelSource("masks", paths, rule.classes, masks_of(paths, kinds, claims, task.classes()))
    return LabelSource(kinds[0], paths, rule.classes)


def content_of_job(contents: Sequence[str], sources: Mapping[str, LabelSource]) -> str:
    """Digest of the files of a volume and of its labels, and of the rules by which those are read."""

    def told(source: LabelSource) -> Any:
        found = [patiently(digest, item) for path in source.paths for item in with_voxels(Path(path))]
        if source.rule is not None:
            return [found, source.rule.settings()]
        if form_of(source.kind):
            return [found, source.kind]
        return found if len(found) > 1 else found[0]

    return digest_of([list(contents), {task: told(source) for task, source in sources.items()}])


def read_source(
    kind: str, paths: tuple[str, ...], labels: LabelSource | None = None, grid: Grid | None = None, *, memory_mb: int
) -> Volume:
    """A scan, or labels on the grid of their image, or why not (``RefusedVolumeError``)."""
    limits = Limits(memory_mb=min(memory_mb, Limits.memory_mb))
    try:
        if labels is not None and isinstance(labels.rule, Masks):
            return read_masks(paths, labels.rule, grid, limits)
        if labels is not None and labels.rule is not None:
            return read_labels(paths, labels.rule, grid, labels.image, limits)
        return read_scan(kind, paths, limits)
    except RefusedMasks as error:
        raise RefusedVolumeError(error.code.value, error.told, REASONS[error.code][1], error.paths) from error
    except Refused as error:
        raise RefusedVolumeError(error.code.value, *REASONS[error.code]) from error
