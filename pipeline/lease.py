"""A lease on a folder (of a run, of a shard): two writers never share it. The kernel gives it back when its owner dies."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lease(folder: Path) -> Iterator[None]:
    """Held while the block runs; a second writer gets a ``ValueError`` that names the first."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lease", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 200, 0).decode(errors="replace")
            raise ValueError(f"{folder}: another process writes here ({owner}); wait for it or end it") from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(handle)
