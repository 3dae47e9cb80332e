"""A signal asks for one checkpoint and an orderly end: SIGTERM, SIGUSR1, SIGUSR2 -> exit 75; SIGINT -> exit 130."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

RESUME_ME = 75


class Stop:
    """Which signal came, if any; the handler does nothing but set it."""

    signal: int | None = None

    @property
    def exit_code(self) -> int:
        return 130 if self.signal == signal.SIGINT else RESUME_ME


class Stopped(SystemExit):
    """Raised after the checkpoint is written; its code is the process's exit code."""


@contextmanager
def watching() -> Iterator[Stop]:
    """Signals inside the block set the flag; the old handlers return afterwards."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number

    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    old = {number: signal.signal(number, note) for number in watched}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
