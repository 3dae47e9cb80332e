"""What a worker of `preprocess` is handed of labels, and how it reads a scan or its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from anatomy.grid import Grid
from pipeline.files import digest, digest_of
from pipeline.labels.reading import read_labels
from pipeline.labels.rule import Rule
from pipeline.scans.patience import patiently
from pipeline.scans.quarantine import REASONS, Refused
from pipeline.scans.reading import Limits, read_scan
from pipeline.volumes.jobs import LabelSource, Part, RefusedVolumeError, form_of
from pipeline.volumes.volume import Volume


def label_source(rule: Rule, kinds: Mapping[str, str], placement: str, part: Part, paths: tuple[str, ...]) -> LabelSource:
    """The labels of one task: a label volume, or DICOM objects drawn on a part. ``kinds``: what each label file is; ``placement``: which
    form of a NIfTI header counts, by the task; without it, the one that counts of the image."""
    kind, placement = kinds[paths[0]], placement or form_of(part.kind)
    if kind == "nifti" and placement:
        kind = f"nifti:{placement}"
    drawn = {"rule": rule, "image": (part.kind, part.paths)} if kind == "dicom" else {}
    return LabelSource(kind, paths, rule.classes, **drawn)


def content_of_job(contents: Sequence[str], sources: Mapping[str, LabelSource]) -> str:
    """Digest of the files of a volume and of its labels, and of the rules by which those are read."""

    def told(source: LabelSource) -> Any:
        found = [patiently(digest, path) for path in source.paths]
        if source.rule is not None:
            return [found, asdict(source.rule)]
        return [found, source.kind] if form_of(source.kind) else found[0]

    return digest_of([list(contents), {task: told(source) for task, source in sources.items()}])


def read_source(
    kind: str, paths: tuple[str, ...], labels: LabelSource | None = None, grid: Grid | None = None, *, memory_mb: int
) -> Volume:
    """A scan, or labels on the grid of their image, or why not (``RefusedVolumeError``)."""
    limits = Limits(memory_mb=min(memory_mb, Limits.memory_mb))
    try:
        if labels is not None and labels.rule is not None:
            return read_labels(paths, labels.rule, grid, labels.image, limits)
        return read_scan(kind, paths, limits)
    except Refused as error:
        raise RefusedVolumeError(error.code.value, *REASONS[error.code]) from error
