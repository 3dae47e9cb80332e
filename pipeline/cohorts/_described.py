"""What `init` takes from a dataset's own JSON (nnU-Net, Decathlon, nnssl) instead of guessing it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.scans.folders.descriptions import DATASET, PRETRAIN, Malformed, channel_names, is_dataset, label_names, read_description
from pipeline.scans.folders.layouts import IMAGES


@dataclass(frozen=True)
class Described:
    """``labels``: the folder of the training labels; ``classes``: label value -> name, without background; ``channels`` as the JSON names
    them."""

    labels: Path | None = None
    classes: dict[int, str] | None = None
    channels: tuple[str, ...] = ()


def describe(scans: Path) -> Described:
    """Of the dataset that ``scans`` is, or whose ``imagesTr`` it is. A JSON that is broken is a ``ValueError``."""
    root = scans.parent if scans.name in IMAGES else scans
    value = _read(root / DATASET)
    if value is None or not is_dataset(value):
        _read(scans / PRETRAIN)
        return Described()
    try:
        classes = {number: name for number, name in sorted(label_names(value).items()) if 0 < number <= 255}
        labels = root / "labelsTr" if (root / "labelsTr").is_dir() else None
        return Described(labels, classes if len(set(classes.values())) == len(classes) else None, channel_names(value))
    except Malformed as error:
        raise ValueError(f"{root / DATASET}: {error}; mend it, or remove it and give --labels") from error


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return read_description(path)
    except Malformed as error:
        raise ValueError(f"{path}: {error}; mend it, or remove it and give --labels") from error
