"""What `init` sees below the user's folders: images, label volumes, and which belongs to which, as `index` will find it."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from pipeline.cohorts._drawn import Dicom
from pipeline.cohorts._masks import Cases, find_cases
from pipeline.cohorts._suggest import Image
from pipeline.progress import Progress
from pipeline.scans.folders.belonging import Images
from pipeline.scans.folders.layouts import read_layouts
from pipeline.scans.folders.naming import BIDS_MODALITY, MODALITY_WORDS, modality_in, name_of, shared_subject
from pipeline.scans.folders.walk import Found, stem_of, walk
from pipeline.scans.quarantine import Code

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar", ".tar.bz2", ".tar.xz")
SEQUENCE = re.compile(r"\d{4}|" + "|".join({*BIDS_MODALITY, *(word for words in MODALITY_WORDS.values() for word in words)}), re.IGNORECASE)


@dataclass
class Aside:
    """How many files were no images, and what can be done about it."""

    labels: int = 0
    links: int = 0
    archives: int = 0
    dicom: Dicom = field(default_factory=Dicom)

    def take(self, item: Found) -> None:
        self.links += item.code is Code.LINK
        self.archives += item.code is None and item.kind == "other" and item.relative.lower().endswith(ARCHIVES)

    def words(self) -> str:
        links = f"{self.links} links lead out of it and are not followed: put the files themselves there"
        told = [links] if self.links else []
        return "; ".join([*told, f"{self.archives} archives are not looked into: unpack them"] if self.archives else told)


def find_images(scans: Path, labels: Path | None) -> tuple[list[Image], Aside]:
    """Every image below ``scans``, sorted by path; files below ``labels`` are none."""
    images, aside, layouts = [], Aside(), read_layouts(scans)
    apart = labels if labels and not _inside(scans, labels) else None
    for item in walked(scans):
        if apart and _inside(item.path, apart):
            continue
        if item.kind == "dicom" and item.code is None:
            aside.dicom.take(item.path)
        elif item.kind in ("nifti", "metaimage") and item.code is None:
            listed = layouts.of(item.path)
            named = listed.named if listed else name_of(item.relative)
            if named is not None and not named.is_labels:
                modality = named.modality or modality_in(stem_of(item.path.name))
                images.append(Image(named.key, named.subject, item.kind, item.path, item.relative, 1, modality, named.exam))
            aside.labels += listed is None and named is not None and named.is_labels
        else:
            aside.take(item)
    images += aside.dicom.images(scans)
    if not images:
        told = f" ({words})" if (words := aside.words()) else ""
        raise ValueError(f"{scans}: holds no NIfTI, MetaImage or DICOM file{told}; name the folder that holds the scans")
    return sorted(images, key=lambda image: str(image.path)), aside


def find_labels(labels: Path, scans: Path) -> dict[str, Path]:
    """Path below ``labels`` -> label volume, sorted. Where the scans lie in the same folder, only what is named as labels is one."""
    shared = scans.resolve().is_relative_to(labels.resolve())
    volumes = [item for item in walked(labels) if item.kind in ("nifti", "metaimage")]
    found = {v.relative: v.path for v in volumes if not shared or not _inside(v.path, scans) or name_of(v.relative).is_labels}
    if not found:
        named = " that is named as labels (case01_seg, mask)" if volumes else ""
        raise ValueError(f"{labels}: holds no NIfTI or MetaImage file{named}; name the folder that holds the label volumes")
    return dict(sorted(found.items()))


def find_masks(files: dict[str, Path], images: list[Image], sequences: Sequence[str]) -> tuple[Cases, list[Image], tuple[str, ...]]:
    """(image -> its masks by name, images, channels) where label files hold a structure each; none where most belong to images by their
    names. ``files`` as ``find_labels`` gives them."""
    ways = [(images, ()), *([([_in_exam(image, sequences) for image in images], tuple(sequences))] if len(sequences) > 1 else [])]
    if any(2 * len(_matched(files, own, channels)[0]) > len(files) for own, channels in ways):
        return {}, images, ()
    for own, channels in ways:
        if cases := find_cases(files, own, channels):
            return cases, own, channels
    return {}, images, ()


def find_owned(
    files: dict[str, Path], scans: Path, labels: Path, images: list[Image], sequences: Sequence[str]
) -> tuple[dict[Path, Path], list[Image], tuple[str, ...]]:
    """(image -> its label volume, images, channels): sequences become channels where labels are those of exams, not of single images."""
    owned, doubtful = _matched(files, images, ())
    if len(sequences) > 1:
        united = [_in_exam(image, sequences) for image in images]
        more, _ = _matched(files, united, sequences)
        if len(more) > len(owned):
            return more, united, tuple(sequences)
    if not owned:
        why = "could be those of several images" if doubtful else "no image has such a name"
        raise ValueError(
            f"{labels}: none of its {len(files)} label files belongs to one image in {scans}: {next(iter(doubtful or files))!r}: {why}, "
            f"such as {images[0].relative!r}. Rename them, or name the folder that belongs to these scans; see docs/labels.md"
        )
    return owned, images, ()


def _matched(files: dict[str, Path], images: list[Image], channels: Sequence[str]) -> tuple[dict[Path, Path], list[str]]:
    """(image -> label volume, labels that several images may own)."""
    known = Images(((image, image.relative, image.key) for image in images), channels)
    owned, doubtful = {}, []
    for relative, path in files.items():
        called = known.called(relative)
        if len(called) == 1 or (channels and len({image.exam for image in called}) == 1):
            owned.setdefault(called[0].path, path)
        elif called:
            doubtful.append(relative)
    return owned, doubtful


def _in_exam(image: Image, channels: Sequence[str]) -> Image:
    """Named as the study's channels make it named."""
    if image.kind == "dicom":
        return image
    named = name_of(image.relative, channels)
    return replace(image, key=named.key, subject=named.subject, exam=named.exam, modality=named.modality or image.modality)


def sequences_of(images: Sequence[Image]) -> tuple[str, ...]:
    """Last words of names (case01_FLAIR), or whole names (case01/FLAIR), that say a sequence and that at least half of the exams have, once
    each; none if they are fewer than two."""
    exams: dict[str, Counter[str]] = defaultdict(Counter)
    for image in images:
        if image.kind != "dicom":
            path = PurePosixPath(image.relative)
            base, _, word = stem_of(path.name).rpartition("_")
            if SEQUENCE.fullmatch(word):
                exams[f"{path.parent}/{base}"][word] += 1
    several = [words for words in exams.values() if len(words) > 1]
    counts = Counter(word for words in several for word, count in words.items() if count == 1)
    return tuple(sorted(word for word, count in counts.items() if 2 * count >= len(exams) and len(several) > 1))


def with_subjects(images: list[Image]) -> tuple[list[Image], str]:
    """The images with their subjects, and the pattern by which those were found if one folder holds several volumes of a person."""
    flat = [image for image in images if image.kind != "dicom" and image.subject == image.key]
    pattern = shared_subject([image.key for image in flat])
    if not pattern:
        return images, ""
    found = {image.path: re.search(pattern, image.key) for image in flat}
    return [replace(image, subject=found[image.path][1]) if found.get(image.path) else image for image in images], pattern


def walked(folder: Path) -> Iterator[Found]:
    """Every file, with progress; a missing folder is a ``ValueError``."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; name one that exists")
    total = sum(len(files) for _, _, files in os.walk(folder))
    with Progress(f"look at {folder.name}", max(1, total), unit="file") as progress:
        for item in walk(folder):
            progress.advance()
            yield item


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
