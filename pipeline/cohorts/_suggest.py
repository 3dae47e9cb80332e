"""Values of a study that fit the scans that were found; ``_written`` puts them into words."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.cohorts._described import Described

LEAST_VOX, LARGEST_VOX, STEP_VOX = 16, 48, 8  # edges of crops: the U-Net halves them three times


@dataclass(frozen=True)
class Image:
    """One volume: a NIfTI or MetaImage file, or the DICOM files of a folder. ``key`` and ``relative``, its path below the scans, say what
    its label file may be called."""

    key: str
    subject: str
    kind: str
    path: Path
    relative: str
    num_files: int = 1
    modality: str = ""  # where something says it
    exam: str = ""


@dataclass(frozen=True)
class Header:
    """What the header of one image says; shape and spacing along Right, Anterior, Superior."""

    modality: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    volumes: int = 1
    disagrees: bool = False  # its sform and its qform


@dataclass(frozen=True)
class Found:
    """What is in the folders, and the values that follow from it."""

    scans: Path
    labels: Path | None
    images: int
    files: int
    subjects: int
    labelled: int
    kinds: dict[str, int]
    modalities: dict[str, int]
    channels: tuple[str, ...]  # sequences that most exams have
    together: bool  # whether they enter as channels of one input
    spacing_mm: tuple[float, ...]
    same_spacing: bool
    shape: tuple[int, ...]
    looked: int
    values: dict[int, int]
    test: int
    validation: int
    sizes: tuple[int, ...]
    crop: tuple[int, ...]
    subject: str
    described: Described
    four_d: bool
    disagree: int


def suggest(
    scans: Path, labels: Path | None, images: Sequence[Image], owned: Collection[Path], headers: Sequence[Header],
    values: tuple[int, Counter[int]], subject: str, described: Described,
    channels: Sequence[str], together: bool,
) -> Found:  # fmt: skip
    """``owned``: images with labels; ``subject``: the pattern by which subjects were told from file names. Without labels the study only
    pretrains. Fewer than three labelled subjects are a ``ValueError``."""
    labelled = len({image.subject for image in images if image.path in owned or labels is None})
    least, needs = (3, "3: to test, to validate, to train") if labels else (2, "2: to validate, to train")
    if labelled < least:
        only = f"{labels}: only {labelled} subjects have labels" if labels else f"{scans}: holds scans of only {labelled} subjects"
        raise ValueError(f"{only}; a study needs at least {needs}")
    test, validation = (min(40, max(1, labelled // 4)) if labels else 0), min(20, max(1, labelled // 8))
    train = labelled - test - validation
    spacing = tuple(round(statistics.median(header.spacing_mm[axis] for header in headers), 4) for axis in range(3))
    same = all(abs(step / middle - 1) < 0.02 for header in headers for step, middle in zip(header.spacing_mm, spacing, strict=True))
    stored = [tuple(n * s / (s if same else m) for n, s, m in zip(h.shape, h.spacing_mm, spacing, strict=True)) for h in headers]
    lengths = [[shape[axis] for shape in stored] for axis in range(3)]
    return Found(
        scans=scans, labels=labels, images=len(images),
        files=sum(image.num_files for image in images),
        subjects=len({image.subject for image in images}),
        labelled=labelled,
        kinds=_tally(image.kind for image in images),
        modalities=_tally(header.modality for header in headers if header.modality),
        channels=tuple(channels),
        together=together,
        spacing_mm=spacing,
        same_spacing=same,
        shape=tuple(int(statistics.median(axis)) for axis in lengths),
        looked=values[0],
        values=dict(sorted(values[1].items())),
        test=test, validation=validation,
        sizes=tuple(2**power for power in range(6) if 2**power < train),
        crop=tuple(_crop(axis) for axis in lengths),
        subject=subject,
        described=described,
        four_d=any(header.volumes > 1 for header in headers),
        disagree=sum(header.disagrees for header in headers),
    )  # fmt: skip


def _tally(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _crop(lengths: Sequence[float]) -> int:
    """The largest multiple of eight voxels that half of the volumes are as long as, within limits; smaller volumes are padded."""
    return int(min(LARGEST_VOX, max(LEAST_VOX, statistics.median_low(sorted(lengths)) // STEP_VOX * STEP_VOX)))
