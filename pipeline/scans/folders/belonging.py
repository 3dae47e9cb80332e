"""Which image a label volume belongs to, by place and name. The first of these that any image shares with it decides; where several images
do, none is chosen:

1. folder and name: ``patient01/visit2/t1`` in both folders
2. name: ``case01``
3. folder, and name without words for images and labels: ``case01/image`` and ``case01/seg``, ``STS_001/CT_image`` and ``STS_001/CT_mask``
4. name without such words: ``case01`` and ``case01_seg``
5. BIDS entities that say which image: ``sub-01_run-1_T1w`` and ``sub-01_run-1_space-orig_dseg``
6. the image's folder: ``STS_001/CT`` and ``STS_001``

A mask of one class is called like its class, not like its image; its folder says whose it is, by the first of these:

1. the folder of both: ``case01/ct`` and ``case01/segmentations/liver``
2. a folder of the image's place and name, or
3. of its name: ``case01`` and ``case01/liver``
4. the name of both folders: ``ct/case01/volume`` and ``case01/liver``

Folders that only sort files (images, labelsTr, derivatives, anat) count for nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from pipeline.scans.folders.entities import entities_of
from pipeline.scans.folders.naming import BIDS_LABELS, NO_SUBJECT, channel_of, label_key, plain
from pipeline.scans.folders.walk import stem_of

Item = TypeVar("Item")
OF_LABELS = ("suffix", "datatype", "space", "description", "label", "resolution", "density", "segmentation", "hemisphere")
OF_PLACE = 6  # the last of the ways by which images are known


class Images(Generic[Item]):
    """Images by what their label volumes may be called. Each comes with its path below its source (of a DICOM series: the folder's) and its
    key; ``channels`` are the study's."""

    def __init__(self, items: Iterable[tuple[Item, str, str]], channels: Sequence[str] = ()) -> None:
        self.channels = channels
        self.known: dict[tuple[int, str], list[Item]] = defaultdict(list)
        for item, relative, key in items:
            place = _place(relative)
            folder = place.rpartition("/")[2]
            names = (f"{place}/{key}", key, f"{place}/{plain(key)}", plain(key), _entities(relative), folder, place)
            for way, name in enumerate(names):
                if name:
                    self.known[way, name].append(item)

    def called(self, relative: str) -> list[Item]:
        """Those that the label volume at a path below its folder may belong to."""
        stem = label_key(PurePosixPath(relative).name)
        for name in dict.fromkeys((stem, channel_of(stem, self.channels)[0] if self.channels else stem)):
            place, bare = _place(relative), plain(name)
            entities = _entities(relative) if stem.rpartition("_")[2] in BIDS_LABELS else ""
            for way, called in enumerate((f"{place}/{name}", name, f"{place}/{bare}", bare, entities, bare or place.rpartition("/")[2])):
                if called and (found := self.known.get((way, called))):
                    return found
        return []

    def beside(self, relative: str) -> list[Item]:
        """Those that a mask of one class at a path below its folder may belong to."""
        place = _place(relative)
        folder, inside = place.rpartition("/")[2], place if "/" in place else f"/{place}"
        for way, name in ((OF_PLACE, place), (0, inside), (1, folder), (5, folder)):
            if place and (found := self.known.get((way, name))):
                return found
        return []


def structure_of(path: PurePosixPath) -> tuple[str, ...]:
    """What the structure in a mask of one class may be called: like the file, or without the case that its name begins with
    (``case01/case01_liver``)."""
    stem = stem_of(path.name)
    case = next((part for part in reversed(path.parts[:-1]) if not NO_SUBJECT.fullmatch(part)), "")
    rest = stem[len(case) + 1 :] if case and stem.startswith((f"{case}_", f"{case}-")) else ""
    return (stem, rest) if rest else (stem,)


def _place(relative: str) -> str:
    return "/".join(part for part in PurePosixPath(relative).parts[:-1] if not NO_SUBJECT.fullmatch(part))


def _entities(relative: str) -> str:
    return "_".join(f"{name}-{label}" for name, label in sorted(entities_of(relative).items()) if name not in OF_LABELS)
