"""A signal asks for one checkpoint and an orderly end: SIGTERM, SIGUSR1, SIGUSR2 -> exit 75 ("resume me"); SIGINT -> exit 130.

The handler does nothing but note it. One rank that was told is enough: at the end of a step all ranks take the largest code that one
of them noted, so all of them save the same step. A second SIGINT ends the process at once, also in the middle of a call into C.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

RESUME_ME, INTERRUPTED = 75, 130
WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Stop:
    """``code``: what this process was asked to end with; 0 is go on. Ctrl-C weighs more than what a scheduler sends."""

    def __init__(self) -> None:
        self.code = 0

    def note(self, number: int, frame: FrameType | None = None) -> None:
        self.code = max(self.code, INTERRUPTED if number == signal.SIGINT else RESUME_ME)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


_EARLY = Stop()


@contextmanager
def listening() -> Iterator[None]:
    """SIGTERM, SIGUSR1 and SIGUSR2 in the block are noted for the training in it that is about to begin: imports, and ranks that meet, take
    seconds in which a signal would end the process with another code than "resume me". Ctrl-C ends at once what has nothing to save yet."""
    old = {number: signal.signal(number, _EARLY.note) for number in WATCHED if number != signal.SIGINT}
    try:
        yield
    finally:
        _EARLY.code = 0
        for number, handler in old.items():
            signal.signal(number, handler)


class Stopped(SystemExit):
    """Raised when all is saved; its code is the process's exit code."""


@contextmanager
def watching() -> Iterator[Stop]:
    """Signals inside the block are noted, and those of ``listening`` before it; the old handlers return afterwards."""
    stop = Stop()
    stop.code, _EARLY.code = _EARLY.code, 0
    old = {number: signal.signal(number, stop.note) for number in WATCHED}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
