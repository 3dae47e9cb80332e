"""What `init` makes of labels with a file for each structure (``case01/segmentations/liver.nii.gz``)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.cohorts._headers import SAMPLE, evenly
from pipeline.cohorts._suggest import Found, Image
from pipeline.cohorts._written import schema_line
from pipeline.labels.masks import is_one_structure
from pipeline.progress import Progress
from pipeline.scans.folders.belonging import Images, structure_of
from pipeline.scans.quarantine import Refused
from pipeline.scans.reading import read_scan
from pipeline.volumes.volume import Volume

OFTEN = 0.9  # of the images: what fewer have is no class unless the user says what a missing file means
CASES = 3  # to look into
SLIVER = 0.01  # of the smaller structure: so much overlap is no structure within another
MOST_CLASSES = 255
Cases = dict[Path, dict[str, Path]]


@dataclass(frozen=True)
class MaskSet:
    """``names``: how structures that become classes are called -> how many of the ``cases`` have the file; ``rare``: those that fewer have;
    ``odd``: those that are no masks; ``whole``: image -> one of its masks, if it has all; ``overlaps``: of each image looked into, the
    largest (voxels, share of the smaller structure, names of both)."""

    cases: int
    names: dict[str, int]
    rare: dict[str, int]
    odd: tuple[str, ...]
    whole: dict[Path, Path]
    looked: int
    overlaps: tuple[tuple[int, float, str, str], ...]


def find_cases(files: Mapping[str, Path], images: Sequence[Image], channels: Sequence[str]) -> Cases:
    """Image -> {name of the structure: mask}; empty unless most images that have any have several. ``files``: path below the labels ->
    file. Of channels of one exam the first has them."""
    known = Images(((image, image.relative, image.key) for image in images), channels)
    cases: Cases = defaultdict(dict)
    for relative, path in files.items():
        near = known.beside(relative)
        if len(near) == 1 or (channels and len({image.exam for image in near}) == 1):
            cases[near[0].path][_plain(structure_of(PurePosixPath(relative))[-1])] = path
    return dict(cases) if 2 * sum(len(own) > 1 for own in cases.values()) > len(cases) else {}


def read_cases(cases: Cases) -> MaskSet:
    """What the masks are called, and what a few images' hold."""
    counts = Counter(name for own in cases.values() for name in own)
    often = {name for name, count in counts.items() if count >= OFTEN * len(cases)}
    by_size = sorted(cases.values(), key=lambda own: -len(often & own.keys()))
    sample = evenly([own for own in by_size if len(often & own.keys()) == len(often & by_size[0].keys())])
    sample = evenly(sample, max(1, min(CASES, SAMPLE // max(1, len(sample[0])))))
    odd, overlaps = {"background"} & counts.keys(), []
    with Progress("labels", sum(map(len, sample)), unit="file") as progress:
        for own in sample:
            more, most = _look(own, progress)
            odd |= more
            overlaps.append(most)
    names = {name: counts[name] for name in sorted(often - odd)[:MOST_CLASSES]}
    if not names:
        raise ValueError(
            f"{next(iter(sample[0].values()))}: this and other label files lie in folders of one image each, but at least {OFTEN:.0%} of "
            f"the images have no mask of one name; give the masks of a structure the same name in all folders, see docs/labels.md"
        )
    rare = {name: counts[name] for name in sorted(counts.keys() - names.keys() - odd) if counts[name] > 1 or len(cases) < 3}
    whole = {image: next(iter(own.values())) for image, own in cases.items() if names.keys() <= own.keys()}
    return MaskSet(len(cases), names, rare, tuple(sorted(odd)), whole, len(sample), tuple(overlaps))


def _look(own: Mapping[str, Path], progress: Progress) -> tuple[set[str], tuple[int, float, str, str]]:
    """(names of files that are no masks, the largest overlap of two others) of one image."""
    odd, most, first = set(), (0, 0.0, "", ""), None
    sizes: list[int] = []
    names: list[str] = []
    for name, path in sorted(own.items()):
        progress.advance()
        mask = _read(path)
        values = mask.voxels[0]
        inside = values != 0
        if inside.any() and not is_one_structure(values[inside]):
            odd.add(name)
            continue
        first = first or (mask.grid, np.zeros(mask.grid.shape, np.uint16))
        if not mask.grid.same_place(first[0]):
            continue  # `preprocess` says so, of every image
        names.append(name)
        sizes.append(int(inside.sum()))
        under = np.bincount(first[1][inside], minlength=len(names))[1:]
        if under.any():
            at = int(under.argmax())
            most = max(most, (int(under[at]), under[at] / min(sizes[at], sizes[-1]), names[at], name))
        first[1][inside] = len(names)
    return odd, most


def _read(path: Path) -> Volume:
    try:
        kind = "nifti:sform" if path.name.lower().endswith((".nii", ".nii.gz", ".hdr")) else "metaimage"
        return read_scan(kind, [path]).canonical()
    except Refused as refused:
        raise ValueError(f"{path}: cannot be read as a mask: {refused}") from refused


def masks_task_yaml(found: Found, masks: MaskSet, name: str, path: Path) -> str:
    """A task whose classes are the masks that were found, by name."""
    classes = "\n".join(f"      {value}: {_text(label)}   # {masks.names[label]}" for value, label in enumerate(masks.names, 1))
    aside = [f"{_text(label)} ({count})" for label, count in masks.rare.items()]
    full = f", or since a task holds {MOST_CLASSES}" if len(masks.names) == MOST_CLASSES else ""
    rare = f"# No classes, since fewer than nine in ten images have them{full}: {', '.join(aside)}\n" if aside else ""
    odd = f"# No classes, since their files are no masks of one structure: {', '.join(map(_text, masks.odd))}\n" if masks.odd else ""
    return f"""{schema_line(path, "task")}
# Written by `vesalius init`. Labels are a file for each structure, in folders of {masks.cases} images, of which {len(masks.whole)} have all
# that are classes here; behind each class stands how many have it. Classes have their files' names: check that none says who somebody is.
# To learn fewer structures, delete their lines: masks that no class names are left out. For other names, or several files in one class:
#   masks: {{kidney: ["kidney_left", "kidney_right"], ribs: ["rib_*"]}}
name: {name}
labels: {_text(found.labels)}
masks: by_name
may_be_absent: []   # classes whose missing file says that the patient has none; else it costs the image its labels. Empty masks are none
on_top: []   # classes that lie over others where masks overlap, such as a tumour in its organ; the topmost first
{_overlapping(masks)}
{rare}{odd}kind:
  segmentation:
    classes:
{classes}
"""


def _overlapping(masks: MaskSet) -> str:
    """Slivers at a border are no structure within another: only those are settled without the user."""
    voxels, share, one, other = max(masks.overlaps, key=lambda item: item[1])
    told = f"of {masks.looked} images looked into, {sum(item[0] > 0 for item in masks.overlaps)} have masks that overlap"
    if not voxels:
        return f"overlapping: refuse   # {told}. Where others do: refuse (no labels), or last (the later class has the voxels)"
    told += f", most {_text(one)} and {_text(other)} ({voxels} voxels, {share:.1%} of the smaller)"
    if share <= SLIVER:
        return f"overlapping: last   # the later class has such voxels: {told}. Or refuse: no labels for such images"
    return f"overlapping: refuse   # {told}: say above which lies on top, or set last (the later class has the voxels)"


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _text(value: object) -> str:
    """Quoted, since JSON strings are YAML strings."""
    return json.dumps(str(value), ensure_ascii=False)
