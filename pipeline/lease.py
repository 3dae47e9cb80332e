"""A lease on a folder: two writers never share it, on one machine or on several that mount the same file system.

Where the file system has locks, the kernel gives a dead owner's lease back at once. Beside the lock the owner leaves a sign of life in the
file every few seconds, for what locks don't cover: a file system without them, and one (Lustre's ``localflock``) whose locks end at the
machine. Whoever finds the name of another machine waits until the sign has stood still, by its own clock, for ``PATIENCE_S``.

What is not possible: over NFSv3 the server keeps the lock of a machine that was switched off until it comes back or an administrator
clears it; over NFSv4 for about 90 s. Without locks, an owner that was suspended for longer than ``PATIENCE_S`` loses its lease; it notices
before it writes the next checkpoint, not before it writes the next line.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BEAT_S, PATIENCE_S = 5.0, 30.0
LENGTH = 400
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Lease:
    """One folder's lease, held by this process while the block around it runs."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self.handle, self.ended = path, handle, threading.Event()
        job = os.environ.get("SLURM_JOB_ID", "")
        self.card = {"process": os.getpid(), "host": socket.gethostname(), "job": job, "token": secrets.token_hex(8)}

    def check(self) -> None:
        """A ``ValueError`` if somebody else has taken the folder, which only a file system without locks allows."""
        owner = _owner(self.path)
        if owner and owner.get("token") != self.card["token"]:
            raise ValueError(f"{self.path.parent}: {_words(owner)} has taken this folder while this process stood still; it ends here")

    def beat(self, number: int) -> None:
        data = json.dumps({**self.card, "beat": number}).encode().ljust(LENGTH)  # of one length, so that no reader meets half of it
        try:
            os.pwrite(self.handle, data, 0)
            os.ftruncate(self.handle, LENGTH)
            os.fsync(self.handle)
        except OSError as error:  # a call on a handle does not say which file it was
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def go_on_beating(self) -> None:
        number = 1
        while not self.ended.wait(BEAT_S):
            with suppress(OSError, ValueError):
                self.check()
                self.beat(number)
            number += 1


@contextmanager
def lease(folder: Path) -> Iterator[Lease]:
    """Held while the block runs; a second writer gets a ``ValueError`` that names the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lease"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    held = Lease(path, handle)
    beating = threading.Thread(target=held.go_on_beating, name="lease", daemon=True)
    try:
        locked = _lock(handle, path)
        owner = _owner(path)
        if owner and (not locked or owner.get("host") != held.card["host"]):
            _wait_for_silence(path, owner)
        held.beat(0)
        if not locked:  # two that came at the same moment: the last one's name stands
            time.sleep(min(1.0, BEAT_S))
            held.check()
        beating.start()
        yield held
        with suppress(ValueError, OSError):
            held.check()
            os.ftruncate(handle, 0)
    finally:
        held.ended.set()
        if beating.ident is not None:
            beating.join(BEAT_S)
        if (
            not beating.is_alive()
        ):  # one that hangs in a network file system still writes to the handle, whose number must not be anybody else's
            os.close(handle)


def _lock(handle: int, path: Path) -> bool:
    """Whether the file system has locks; a lock that somebody holds is a ``ValueError``."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _taken(path, _owner(path)) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _wait_for_silence(path: Path, owner: dict[str, Any]) -> None:
    begun, empty = time.monotonic(), 0
    while time.monotonic() - begun < PATIENCE_S:
        time.sleep(min(1.0, BEAT_S))
        now = _owner(path)
        empty = 0 if now else empty + 1
        if empty > 1:  # given back
            return
        if now and now != owner:
            raise _taken(path, now)


def _owner(path: Path) -> dict[str, Any]:
    """What the file says; opened anew, since a network file system looks at the server only then. Empty if it names nobody."""
    try:
        value = json.loads(path.read_bytes()[:2000] or b"{}")
    except (ValueError, OSError):
        return {}
    return value if isinstance(value, dict) else {}


def _taken(path: Path, owner: dict[str, Any]) -> ValueError:
    return ValueError(f"{path.parent}: another process writes here ({_words(owner)}); wait for it or end it")


def _words(owner: dict[str, Any]) -> str:
    job = f", job {owner['job']}" if owner.get("job") else ""
    return f"process {owner.get('process', '?')} on {owner.get('host', '?')}{job}"
