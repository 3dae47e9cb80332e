"""JSON files that describe a dataset, read within limits: ``dataset.json`` (nnU-Net, Decathlon) and nnssl's ``pretrain_data.json``.

Formats: nnU-Net's documentation/dataset_format.md; Antonelli et al., Nature Communications 2022 (Decathlon); nnssl's data/raw_dataset.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATASET, PRETRAIN = "dataset.json", "pretrain_data.json"
MAX_BYTES = {DATASET: 1 << 25, PRETRAIN: 1 << 28}
MAX_NAME = 4096


class Malformed(ValueError):
    """A file that is no JSON, or whose entries are not what its format asks for; the message names the key."""


def read_description(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises ``Malformed``."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES[path.name] + 1)
        if len(data) > MAX_BYTES[path.name]:
            raise Malformed(f"is larger than {MAX_BYTES[path.name]} bytes")
        value = json.loads(data)
    except Malformed:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise Malformed(f"is no JSON that can be read ({type(error).__name__})") from None
    return _mapping(value, "the file")


def is_dataset(value: dict[str, Any]) -> bool:
    """Whether a ``dataset.json`` is nnU-Net's or the Decathlon's; others use that name too."""
    return "labels" in value and bool({"channel_names", "modality", "training"} & value.keys())


def channel_names(value: dict[str, Any]) -> tuple[str, ...]:
    """Of a ``dataset.json``, in the order of their numbers."""
    key = "channel_names" if "channel_names" in value else "modality"
    given = _mapping(value.get(key, {}), key)
    if sorted(given) != sorted(map(str, range(len(given)))) or not all(isinstance(name, str) for name in given.values()):
        raise Malformed(f"{key}: must map the numbers from 0 on to names")
    return tuple(given[str(number)] for number in range(len(given)))


def label_names(value: dict[str, Any]) -> dict[int, str]:
    """Label value -> name. v1 and Decathlon map values to names, v2 names to values; regions of several values are left out."""
    found: dict[int, str] = {}
    for key, other in _mapping(value.get("labels", {}), "labels").items():
        number, name = (key, other) if key.isdecimal() and isinstance(other, str) else (other, key)
        if (isinstance(number, str) and number.isdecimal()) or (isinstance(number, int) and not isinstance(number, bool)):
            found[int(number)] = name
    return found


def cases(value: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...], str | None]]:
    """(case, names of image files, name of the label file or None) of each case that a ``dataset.json`` lists, relative to its folder.

    The case is "" where only its files are named.
    """
    listed = [("", item) for key in ("training", "test") for item in _list(value.get(key, []), key)]
    for case, item in [*listed, *_mapping(value.get("dataset", {}), "dataset").items()]:
        if isinstance(item, str):
            item = {"image": item}
        images = _mapping(item, "training").get("image", item.get("images"))
        label = item.get("label")
        names = tuple(_name(image) for image in (images if isinstance(images, list) else [images]))
        yield case, names, None if label is None else _name(label)


def images(value: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str], str, str, list[str]]]:
    """((dataset, subject, session), path, modality, paths of masks) of each image in a ``pretrain_data.json``."""
    for dataset, content in _mapping(value.get("datasets"), "datasets").items():
        for subject, person in _mapping(_mapping(content, dataset).get("subjects"), "subjects").items():
            for session, visit in _mapping(_mapping(person, "subject").get("sessions"), "sessions").items():
                for image in _list(_mapping(visit, "session").get("images"), "images"):
                    image = _mapping(image, "images")
                    masks = [_name(mask) for mask in _mapping(image.get("associated_masks") or {}, "associated_masks").values() if mask]
                    yield (dataset, subject, session), _name(image.get("image_path")), str(image.get("modality") or ""), masks


def _mapping(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{key}: must be a JSON object")
    return value


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise Malformed(f"{key}: must be a list")
    return value


def _name(value: Any) -> str:
    """Of a file; what no file system takes is malformed."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or "\0" in value:
        raise Malformed("a file's name must be a text")
    return value
