"""BIDS entities: what the words of a file's name say (``sub-01_ses-2_run-1_T1w.nii.gz``), and filters on them (BIDS 1.10, "Entities")."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from pipeline.scans.folders.walk import stem_of

LONG = {
    "sub": "subject", "ses": "session", "sample": "sample", "task": "task", "tracksys": "tracksys", "acq": "acquisition", "ce": "ceagent",
    "trc": "tracer", "stain": "staining", "rec": "reconstruction", "dir": "direction", "run": "run", "mod": "modality_of",
    "echo": "echo", "flip": "flip", "inv": "inversion", "mt": "mtransfer", "part": "part", "proc": "processing", "hemi": "hemisphere",
    "space": "space", "split": "split", "recording": "recording", "chunk": "chunk", "seg": "segmentation", "res": "resolution",
    "den": "density", "label": "label", "desc": "description",
}  # fmt: skip
DATATYPES = ("anat", "func", "dwi", "fmap", "perf", "pet", "ct", "micr", "mrs")
OTHERS = ("suffix", "datatype", "modality")
_PAIR = re.compile(r"([a-z]+)-([A-Za-z0-9]+)")


def entities_of(relative: str) -> dict[str, str]:
    """Long names of the entities -> labels, with ``suffix`` and ``datatype``; empty for a file that is not named as BIDS asks."""
    path = PurePosixPath(relative)
    stem = stem_of(path.name)
    *pairs, suffix = stem.split("_")
    found = {short: label for pair in pairs if (match := _PAIR.fullmatch(pair)) for short, label in [match.groups()]}
    if "sub" not in found or _PAIR.fullmatch(suffix):
        return {}
    named = {LONG.get(short, short): label for short, label in found.items()} | {"suffix": suffix}
    folders = [part for part in path.parts[:-1] if part in DATATYPES]
    return named | ({"datatype": folders[-1]} if folders else {})


def parse_filters(texts: Sequence[str]) -> dict[str, set[str]]:
    """``["suffix=T1w", "session=1"]`` -> labels allowed for each entity; several for one entity are alternatives.

    An entity that BIDS does not know is a ``ValueError``.
    """
    known = {**LONG, **{long: long for long in LONG.values()}, **{name: name for name in OTHERS}}
    filters: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        name, equals, label = text.partition("=")
        if not equals or not label or name not in known:
            raise ValueError(f"--filter: {text!r} is not ENTITY=LABEL; entities are {', '.join(sorted({*LONG.values(), *OTHERS}))}")
        filters[known[name]] |= {_plain(known[name], part) for part in label.split(",")}
    return dict(filters)


def matches(filters: dict[str, set[str]], relative: str, modality: str) -> bool:
    """Whether a scan passes every filter; a file without the entity does not."""
    found = entities_of(relative) | {"modality": modality}
    return all(name in found and _plain(name, found[name]) in labels for name, labels in filters.items())


def _plain(name: str, label: str) -> str:
    """Labels with and without their ``sub-``, and numbers with and without leading zeros, are the same."""
    short = next((short for short, long in LONG.items() if long == name), name)
    label = label.removeprefix(f"{short}-")
    return str(int(label)) if label.isdecimal() else label
