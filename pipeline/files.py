"""Files that are whole or absent: written to a temporary name, synced, renamed; digests to check them by."""

from __future__ import annotations

import fcntl
import filecmp
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path | str, unless_same: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it is synced and takes the name ``path``, else it is removed. ``unless_same``:
    a file of the same bytes is left alone, so that nothing downstream wakes for nothing.

    An ``OSError`` of a write, such as that of a full disk, names ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if unless_same and path.is_file() and filecmp.cmp(path, temporary, shallow=False):
            return
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):  # a write that fails names no file: a full disk, say
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Other processes wait here for the same folder, so that files that belong together are written by one. Where the file system has no
    locks they don't."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Makes a rename in this folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path | str, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The JSON in a file; a broken file is a ``ValueError`` that names it."""
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); remove it and run the stage that makes it again") from error


def write_if_changed(path: Path | str, text: str) -> bool:
    """Rewrites only if the content differs, so that nothing downstream wakes for nothing. Returns whether it wrote."""
    path = Path(path)
    if path.exists() and path.read_text() == text:
        return False
    write_text(path, text)
    return True


def digest(path: Path | str) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """sha256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def write_table(path: Path | str, write: Callable[[Path], None]) -> None:
    """Atomically writes with a function that takes a path, such as ``frame.to_parquet``."""
    with replacing(path) as temporary:
        write(temporary)
