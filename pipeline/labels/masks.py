"""A label volume made of masks, a file for each structure (``case01/segmentations/liver.nii.gz``), in a child process with limits.

Each file is unpacked once, and only one is in memory beside the label volume. A mask lies on the grid of its image and holds 0, and 1 or
255; one that holds 0 alone says that its structure is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import PurePath
from typing import Any

import numpy as np

from anatomy.body import Body
from anatomy.grid import Grid
from pipeline.labels.companion import Structure
from pipeline.labels.rule import Rule
from pipeline.scans.child import Allocate, Limits, in_child
from pipeline.scans.folders.belonging import structure_of
from pipeline.scans.quarantine import REASONS, Code, Refused
from pipeline.scans.reading import reader_of
from pipeline.volumes.preparation import elsewhere
from pipeline.volumes.volume import Volume

INSIDE = (1, 255)
SECONDS_EACH = 20  # more for each file


@dataclass(frozen=True)
class Masks:
    """The masks of one image, in the order of their paths: the kind of each as in ``scans.reading``, and its label value. ``names`` of the
    classes, for messages."""

    rule: Rule
    kinds: tuple[str, ...]
    values: tuple[int, ...]
    names: tuple[tuple[int, str], ...]

    def settings(self) -> dict[str, Any]:
        """All that the label volume depends on, besides the files."""
        return {"kinds": self.kinds, "values": self.values, "on_top": self.rule.on_top, "overlapping": self.rule.overlapping}

    def in_order(self) -> list[int]:
        """Numbers of the files, those that lie over others last."""
        layers = self.rule.layers()
        return sorted(range(len(self.values)), key=lambda number: layers.index(self.values[number]))


class RefusedMasks(Refused):
    """Why, in words that name the classes, and the files at fault."""

    def __init__(self, code: Code, told: str, paths: Sequence[str]) -> None:
        super().__init__(code)
        self.told, self.paths = told, tuple(paths)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return RefusedMasks, (self.code, self.told, self.paths)


def value_of(path: PurePath, rule: Rule) -> int | None:
    """The label value of the class that claims a mask by its file's name; None of one that is left out; raises ``Refused`` where several
    classes do."""
    return next((value or None for name in structure_of(path) if (value := _claiming(name, rule)) is not None), None)


@lru_cache(1 << 12)
def _claiming(name: str, rule: Rule) -> int | None:
    return rule.value_of(Structure(0, name))


def masks_of(paths: Sequence[str], kinds: Sequence[str], rule: Rule, names: Mapping[int, str]) -> Masks:
    """``paths`` are those that ``index`` found to be claimed."""
    values = tuple(value_of(PurePath(path), rule) for path in paths)
    if None in values:
        raise ValueError("masks: the task was changed after `vesalius index`; run it again")
    return Masks(rule, tuple(kinds), values, tuple(sorted(names.items())))


def read_masks(paths: Sequence[str], masks: Masks, grid: Grid, limits: Limits = Limits()) -> Volume:
    """(1, D, H, W) uint8 on ``grid``, the canonical one of the image: the value of the class whose mask covers a voxel, 0 elsewhere; raises
    ``RefusedMasks``, which says which files are at fault, or ``Refused``."""
    more = SECONDS_EACH * len(paths)
    limits = replace(limits, processor_s=limits.processor_s + more, clock_s=limits.clock_s + more)
    readers = {kind: reader_of(kind) for kind in set(masks.kinds)}
    return in_child(partial(_laid, masks=masks, grid=grid, readers=readers), tuple(paths), limits)


def _laid(paths: tuple[str, ...], allocate: Allocate, masks: Masks, grid: Grid, readers: Mapping[str, Any]) -> Volume:
    """In the child."""
    out = allocate(grid.shape[::-1], np.uint8).transpose(2, 1, 0)  # as most files have it
    out[...] = 0
    names = dict(masks.names)
    for number in masks.in_order():
        path, value = paths[number], masks.values[number]
        try:
            box, inside = _inside(readers[masks.kinds[number]]((path,), np.empty), grid, names[value])
        except RefusedMasks as refused:
            raise RefusedMasks(refused.code, refused.told, (path,)) from None
        except Refused as refused:
            raise RefusedMasks(refused.code, f"{names[value]}: {REASONS[refused.code][0]}", (path,)) from None
        place = out[box]
        if not masks.rule.may_lie_over(value):
            _check_free(place[inside], number, paths, masks)
        place[inside] = value
    return Volume(out[None], grid)


def _inside(mask: Volume, grid: Grid, name: str) -> tuple[tuple[slice, ...], np.ndarray]:
    """(box around what is inside, bool of that box); raises ``RefusedMasks`` for a mask that is none, or lies elsewhere."""
    mask = mask.canonical()
    if mask.num_channels != 1 or not mask.grid.same_place(grid):
        raise RefusedMasks(Code.LABELS_OFF_GRID, f"{name}: lies {elsewhere(mask.grid, grid)}", ())
    values = mask.voxels[0]
    inside = values != 0
    if not inside.any():
        return (slice(0, 0),) * 3, inside[:0, :0, :0]
    box = tuple(slice(low, high) for low, high in zip(*Body.of(inside).box(), strict=True))
    inside = inside[box]
    found = values[box][inside]
    if not is_one_structure(found):
        low, high = f"{found.min():g}", f"{found.max():g}"
        raise RefusedMasks(
            Code.LABELS_NOT_BINARY, f"{name}: holds values from {low} to {high} besides 0, where a mask has only 1, or 255", ()
        )
    return box, inside


def is_one_structure(found: np.ndarray) -> bool:
    """Whether the values of a mask that are not 0, of which there are some, are those of a mask."""
    return found.min() == found.max() and found[0] in INSIDE


def _check_free(taken: np.ndarray, number: int, paths: tuple[str, ...], masks: Masks) -> None:
    """Raises ``RefusedMasks`` where voxels of a mask, of which ``taken`` are the labels before it, belong to another class already."""
    value, names = masks.values[number], dict(masks.names)
    counts = np.bincount(taken, minlength=value + 1)
    counts[[0, value]] = 0
    if counts.any():
        other = int(counts.argmax())
        rest = int(np.count_nonzero(counts)) - 1
        told = f"{names[other]} and {names[value]} share {counts[other]} voxels" + (f"; so do {rest} classes more" if rest else "")
        theirs = [path for path, known in zip(paths, masks.values, strict=True) if known == other]
        raise RefusedMasks(Code.LABELS_OVERLAP, f"{told}.", (*theirs, paths[number]))
