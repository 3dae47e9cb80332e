"""Identity: keyed hashes outside, names only in one private file.

An id is 16 characters [a-z2-7] of HMAC-SHA256. The key is made on first use in a private folder outside the results
(``VESALIUS_PRIVATE``, default ``~/.vesalius``), mode 0600; a study of public data may state a public key instead, so that ids are the same
everywhere. ``<private>/<study>-<hash of where its results lie>/crosswalk.tsv`` (mode 0600) leads back to the user's own names:

file_id; path; kind (``scan``, ``labels`` or ``other``); scan_id, exam_id, subject_id (empty for other files); subject (the user's own
name); task (of a label file). A file that holds several scans has a row for each.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import hmac
import os
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from pipeline.files import replacing
from pipeline.folder import StudyFolder
from pipeline.scans.stock import SCANS_KEPT, Inventory

COLUMNS = ("file_id", "path", "kind", "scan_id", "exam_id", "subject_id", "subject", "task")


class Identity:
    """Makes ids. Equal words under one key give equal ids; without the key nothing leads back."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, *words: str) -> str:
        text = "\x1f".join(words).encode("utf-8", "surrogateescape")
        return base64.b32encode(hmac.new(self._key, text, hashlib.sha256).digest())[:16].decode().lower()


def make_identity(public_key: str | None) -> Identity:
    """With the study's public key, or with the private one, which is made on first use."""
    if public_key is not None:
        return Identity(hashlib.sha256(b"public\x1f" + public_key.encode()).digest())
    path = private_folder() / "identity.key"
    if not path.exists():
        _private(path.parent)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            handle = None  # another process was first; its key counts
        if handle is not None:
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(32))
    key = path.read_bytes()
    if len(key) != 32:
        raise ValueError(f"{path}: is no key of 32 bytes; restore it from a backup, or remove it and index every study anew")
    return Identity(key)


def private_folder() -> Path:
    """Where keys and crosswalks lie: never inside the results."""
    return Path(os.environ.get("VESALIUS_PRIVATE") or Path.home() / ".vesalius")


def study_private(where: StudyFolder) -> Path:
    """The private folder of one study."""
    place = hashlib.sha256(str(where.root.resolve()).encode()).hexdigest()[:12]
    return private_folder() / f"{where.root.name}-{place}"


def crosswalk_rows(found: Inventory, owners: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[dict[str, str]]:
    """A row a file, scan and task, by path. ``owners``: scan_id -> {task: file_ids of its labels}."""
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for scan_id, tasks in owners.items():
        for task, files in sorted(tasks.items()):
            for file_id in files:
                labels[file_id, scan_id].append(task)
    scan_of = lru_cache(SCANS_KEPT)(found.scan)
    for number, file in found.files_by_path():
        for scan_id in sorted(file.scan_ids or ("",)) if file.status != "forgotten" else ():
            scan = scan_of(scan_id)
            own = scan is not None and number in scan.paths.numbers
            row = {"file_id": file.file_id, "path": str(file.path.absolute()), "scan_id": scan_id}
            row |= {"exam_id": scan.exam_id, "subject_id": scan.subject_id, "subject": scan.subject} if scan is not None else {}
            left = file.place.task if scan is None else ""  # a mask that no class claims is nobody's labels
            for task in labels.get((file.file_id, scan_id)) or [left]:
                yield row | {"kind": "labels" if task else "scan" if own else "other", "task": task}


def write_crosswalk(where: StudyFolder, rows: Iterable[dict[str, str]]) -> Path:
    """Writes the crosswalk, readable by its owner alone; rows in the order of their paths."""
    folder = study_private(where)
    _private(folder)
    path = folder / "crosswalk.tsv"
    with replacing(path) as temporary, os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600), "w", newline="") as stream:
        table = csv.writer(stream, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([_escaped(row.get(name, "")) for name in COLUMNS] for row in rows)
    return path


def read_crosswalk(where: StudyFolder) -> pd.DataFrame:
    """The crosswalk of a study; a missing one is a ``ValueError`` that says what to run."""
    path = study_private(where) / "crosswalk.tsv"
    if not path.exists():
        raise ValueError(f"{path}: there is no crosswalk; run `vesalius index {where.root}` on this machine first")
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    columns = {name: [_unescaped(text) for text in frame[name]] for name in frame}
    return pd.DataFrame({name: pd.Series(texts, dtype=object) for name, texts in columns.items()})  # names need not be UTF-8


def read_forgotten(where: StudyFolder) -> frozenset[str]:
    """Subjects that ``forget`` removed and ``index`` must not bring back."""
    path = study_private(where) / "forgotten.txt"
    return frozenset(path.read_text().split()) if path.exists() else frozenset()


def _private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii") if _odd(text) else text


def _unescaped(text: str) -> str:
    return text.encode("ascii").decode("unicode_escape") if "\\" in text else text


def _odd(text: str) -> bool:
    return any(character in "\t\n\r\\\"'" for character in text) or not text.isascii()
