"""Label volumes made of DICOM segmentations and structure sets, in a child process with limits, as images are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.labels.companion import STRUCTURE_SET, Companion, check_file, companion_of, read_companion
from pipeline.labels.image import Image, check_belongs, read_image
from pipeline.labels.rule import Rule
from pipeline.labels.segmentation import Segmentation
from pipeline.labels.structure_set import StructureSet
from pipeline.scans.child import Allocate, Limits, in_child, told_by_child
from pipeline.scans.dicom import objects
from pipeline.scans.patience import patiently
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume

IN_BRIEF = Limits(memory_mb=4000, processor_s=120, clock_s=180.0)
CODECS = ("pydicom", "pydicom.pixels.decoders", "pipeline.scans.dicom.codecs")


def described(path: Path, limits: Limits = IN_BRIEF) -> Companion:
    """What a segmentation or structure set says of itself; raises ``Refused``."""
    _import_codecs()
    return told_by_child(partial(_patient, read_companion, path), limits)


def read_labels(
    paths: Sequence[str | Path], rule: Rule, grid: Grid, image: tuple[str, Sequence[str | Path]], limits: Limits = Limits()
) -> Volume:
    """(1, D, H, W) uint8 on ``grid``: the value of the class that each voxel's centre lies in, 0 elsewhere; raises ``Refused``.

    image: (kind, paths) of the scan that the labels belong to, as in ``scans.reading``. Several files are laid together.
    """
    _import_codecs()
    return in_child(partial(_read, rule=rule, grid=grid, image=image), tuple(map(str, paths)), limits)


def _import_codecs() -> None:
    """Here and once, not in every child."""
    for name in CODECS:
        import_module(name)


def _patient(read: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return patiently(read, *arguments)
    except OSError:
        raise Refused(Code.UNREADABLE) from None


def _read(paths: tuple[str, ...], allocate: Allocate, rule: Rule, grid: Grid, image: tuple[str, Sequence[str | Path]]) -> Volume:
    """In the child."""
    headers = _patient(read_image, *image)
    sources = [_patient(_source, Path(path), rule, headers) for path in paths]
    out = allocate(grid.shape, np.uint8)
    out[...] = 0
    present = []
    for value in rule.layers():
        mask = np.zeros(grid.shape, bool)
        owners = [(source, own) for source, values in sources if (own := [n for n, v in values.items() if v == value])]
        if len(owners) > 1:
            raise Refused(Code.LABELS_AMBIGUOUS)
        for source, own in owners:
            source.lay(own, grid, mask)
        if not rule.may_lie_over(value) and out[mask].any():
            raise Refused(Code.LABELS_OVERLAP)
        out[mask] = value
        present += [value] if mask.any() else []
    rule.check_all_there(present)
    return Volume(out[None], grid)


def _source(path: Path, rule: Rule, image: Image) -> tuple[Segmentation | StructureSet, dict[int, int]]:
    """The object, and the label value of each of its structures."""
    check_file(path)
    dataset = objects.read_object(path)
    companion = companion_of(dataset)
    check_belongs(companion, image)
    values = rule.values_of(companion.structures)
    if companion.sop_class == STRUCTURE_SET:
        return StructureSet(dataset, companion, image, {number for number, value in values.items() if value}), values
    return Segmentation(dataset, companion, image, rule.threshold), values
