"""What a folder's own JSON says its files are. It is taken, not guessed: which are images, which labels or masks, whose, of which modality.

Paths in such a JSON lead only to files inside the source; what it names and what is not there is told. In a folder of nnU-Net or the
Decathlon every file in ``imagesTr`` is an image, every one in ``labelsTr`` labels, listed or not. nnssl's list is the whole: no other
volume in its folder is an image.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.scans.folders.descriptions import DATASET, PRETRAIN, Malformed, cases, channel_names, images, is_dataset, read_description
from pipeline.scans.folders.naming import BIDS_MODALITY, NNUNET_CHANNEL, Named, label_key, modality_of
from pipeline.scans.folders.walk import stem_of

IMAGES, LABELS = ("imagesTr", "imagesTs", "imagesVal"), ("labelsTr", "labelsTs", "labelsVal")
RAW = "$nnssl_raw/"


@dataclass(frozen=True)
class Listed:
    """What a file is. Of an image: its name, and (channel, modality) of each volume of a 4-D file whose fourth axis is channels."""

    role: Literal["image", "labels", "none"]
    named: Named | None = None
    volumes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Folder:
    """A dataset of nnU-Net or the Decathlon. ``channels`` are the study's; ``keys``: image -> what its label file is called;
    ``placed``: image -> its case and the number of its channel, where the JSON says both."""

    root: str
    prefix: str
    names: tuple[str, ...]
    channels: tuple[str, ...]
    keys: dict[str, str] = field(default_factory=dict)
    placed: dict[str, tuple[str, int]] = field(default_factory=dict)

    def of(self, path: str) -> Listed | None:
        """By the folder that a file lies in; None of other folders."""
        top = path[len(self.root) + 1 :].partition("/")[0]
        return Listed("labels") if top in LABELS else self.image(path) if top in IMAGES else None

    def image(self, path: str) -> Listed:
        """The image at a path: its case, and which channel it is."""
        stem, known = stem_of(posixpath.basename(path)), self.keys.get(path, "")
        numbered = NNUNET_CHANNEL.match(stem) if stem != known else None
        if numbered and self.names and int(numbered[2]) >= len(self.names):
            numbered = None
        case, number = self.placed.get(path) or ((numbered[1], int(numbered[2])) if numbered else (stem, None))
        subject = f"{self.prefix}{case}"
        if number is None and len(self.names) > 1:
            volumes = tuple((self._channel(n), modality_of(name)) for n, name in enumerate(self.names))
            return Listed("image", Named(subject, subject, known or case, "", volumes[0][1]), volumes)
        modality = modality_of(self.names[number or 0]) if self.names else ""
        return Listed("image", Named(subject, subject, known or case, "" if number is None else self._channel(number), modality))

    def _channel(self, number: int) -> str:
        """Four digits, unless the study itself calls it by its name: names in a JSON may be anybody's."""
        name = self.names[number] if number < len(self.names) else ""
        return name if name in self.channels and f"{number:04d}" not in self.channels else f"{number:04d}"


@dataclass
class Layouts:
    """All such datasets of one source. Paths are absolute; ``missing``: named, but not there or outside the source."""

    source: str
    channels: tuple[str, ...]
    listed: dict[str, Listed] = field(default_factory=dict)
    folders: list[Folder] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    missing: dict[str, None] = field(default_factory=dict)

    def of(self, path: Path) -> Listed | None:
        """None where no JSON speaks of a file, so that its name must do."""
        text = os.path.abspath(path)
        if text in self.listed:
            return self.listed[text]
        inside = [folder for folder in self.folders if text.startswith(f"{folder.root}/")]
        found = max(inside, key=lambda folder: len(folder.root)).of(text) if inside else None
        closed = found is None and any(text.startswith(f"{root}/") for root in self.closed)
        return Listed("none") if closed else found

    def add_dataset(self, path: Path, value: dict[str, Any]) -> None:
        """nnU-Net's or the Decathlon's; raises ``Malformed``."""
        folder = Folder(str(path.parent), self._prefix(path), channel_names(value), self.channels)
        named: list[str] = []
        for case, pictures, label in cases(value):
            labels = label and self._there(folder.root, label)
            for number, picture in enumerate(pictures):
                for image in self._channels_of(folder, picture):
                    named.append(image)
                    folder.keys[image] = label_key(posixpath.basename(labels)) if labels else ""
                    if case and len(pictures) == max(1, len(folder.names)):
                        folder.placed[image] = (case, number)
            if labels:
                self.listed[labels] = Listed("labels")
        self.listed |= {image: folder.image(image) for image in named}
        self.folders.append(folder)

    def add_pretrain(self, path: Path, value: dict[str, Any]) -> None:
        """nnssl's; raises ``Malformed``."""
        root, prefix = str(path.parent), self._prefix(path)
        found: dict[str, Listed] = {}
        for (dataset, subject, session), name, modality, masks in images(value):
            for mask in masks:
                if there := self._there(root, mask):
                    found.setdefault(there, Listed("labels"))
            image = self._there(root, name)
            if image is None:
                continue
            if found.get(image, Listed("none")).role == "image":
                raise Malformed("image_path: names a file twice")
            channel = modality if modality in self.channels or modality in BIDS_MODALITY else ""
            person = f"{prefix}{dataset}/{subject}"
            key = stem_of(posixpath.basename(image))
            found[image] = Listed("image", Named(person, f"{person}/{session}", key, channel, modality_of(modality)))
        self.listed |= found
        self.closed.append(root)

    def _prefix(self, path: Path) -> str:
        """What tells the subjects of several datasets in one source apart."""
        folder = os.path.relpath(path.parent, self.source)
        return "" if folder.startswith(".") else f"{folder}/"

    def _there(self, root: str, name: str, told: bool = True) -> str | None:
        """The path of a named file, if it is there and inside the source; else it is noted as missing."""
        name = f"../{name.removeprefix(RAW)}" if name.startswith(RAW) else name
        path = posixpath.normpath(posixpath.join(root, name))
        inside = path.startswith(f"{self.source}/")
        if inside and os.path.isfile(path):
            return path
        if told and (inside or f"{root}/".startswith(f"{self.source}/")):
            self.missing[path] = None
        return None

    def _channels_of(self, folder: Folder, name: str) -> list[str]:
        """The file of an image, or those of its channels, which nnU-Net v1 lists without their ``_0000``."""
        stem = stem_of(name)
        parts = [f"{stem}_{number:04d}{name[len(stem) :]}" for number in range(max(1, len(folder.names)))]
        exact = self._there(folder.root, name, told=False) or not self._there(folder.root, parts[0], told=False)
        return [path for part in ([name] if exact else parts) if (path := self._there(folder.root, part))]


def read_layouts(source: Path, channels: Sequence[str] = ()) -> Layouts:
    """Of a source, or of the dataset whose ``imagesTr`` it is. ``channels`` are the study's."""
    whole = Path(os.path.abspath(source))
    found = Layouts(str(whole), tuple(channels))
    for path in _descriptions(whole):
        try:
            value = read_description(path)
            if path.name == PRETRAIN:
                found.add_pretrain(path, value)
            elif is_dataset(value):
                found.add_dataset(path, value)
        except Malformed:
            found.broken.add(str(path))
    return found


def _descriptions(whole: Path) -> Iterator[Path]:
    """Regular files of the two names; links are not followed, pipes not opened."""
    places = [whole.parent / DATASET] if whole.name in IMAGES else []
    for place, folders, files in os.walk(whole):
        folders.sort()
        places += [Path(place, name) for name in (DATASET, PRETRAIN) if name in files]
    for path in places:
        try:
            if stat.S_ISREG(path.lstat().st_mode):
                yield path
        except OSError:
            continue
