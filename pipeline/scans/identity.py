"""Identity: keyed hashes outside, names only in one private file.

An id is 16 characters [a-z2-7] of HMAC-SHA256. The key is made on first use in a private folder outside the results
(``VESALIUS_PRIVATE``, default ``~/.vesalius``), mode 0600; a study of public data may state a public key instead, so that ids are the same
everywhere. ``<private>/<study>-<hash of where its results lie>/crosswalk.tsv`` (mode 0600) leads back to the user's own names:

file_id; path; kind (``scan``, ``labels`` or ``other``); scan_id, exam_id, subject_id (empty for other files); subject (the user's own
name); task (of a label file). A file that holds several scans has a row for each.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

import pandas as pd

from pipeline.files import replacing
from pipeline.folder import StudyFolder

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


def write_crosswalk(where: StudyFolder, rows: list[dict[str, str]]) -> Path:
    """Writes the crosswalk, readable by its owner alone."""
    folder = study_private(where)
    _private(folder)
    path = folder / "crosswalk.tsv"
    ordered = sorted(rows, key=lambda row: (row["path"], row["scan_id"]))
    frame = pd.DataFrame({name: [_escaped(row.get(name, "")) for row in ordered] for name in COLUMNS})
    with replacing(path) as temporary:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600))
        frame.to_csv(temporary, sep="\t", index=False)
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
