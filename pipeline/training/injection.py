"""Faults on purpose: at a named rank and step something breaks, so that a test, or you on your cluster, can see what a run makes of it.

Inert unless told: nothing is injected without ``VESALIUS_FAULTS`` (``kill@save:rename,step=40; hang@step,step=7,rank=1``), read when a run
begins. The pattern is torchft's ``EventInjector``. Every fault strikes ``times`` times (once, unless said otherwise).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE = "VESALIUS_FAULTS"
# What happens. The rest are asked for by name where they make a difference: nan@loss, inf@gradient, big@loss.
ACTS = (
    "kill",
    "stop",
    "hang",
    "freeze",
    "raise",
    "disk_full",
    "term",
    "usr1",
    "usr2",
    "interrupt",
    "nan",
    "inf",
    "big",
    "unreadable",
    "die",
)
PLACES = ("step", "loss", "gradient", "read", "evaluate", "save")
SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "term": signal.SIGTERM,
    "usr1": signal.SIGUSR1,
    "usr2": signal.SIGUSR2,
    "interrupt": signal.SIGINT,
}


class ReaderDied(BaseException):
    """Ends a reading thread without a word, as a crash in a library would."""


@dataclass
class Fault:
    """``place`` is one of ``PLACES``; a stage of a save is ``save:STAGE``. ``step`` None is every step, ``rank`` None every rank."""

    act: str
    place: str
    step: int | None = None
    rank: int | None = None
    times: int = 1


class Faults:
    """The faults of one process."""

    def __init__(self, *faults: Fault, rank: int = 0) -> None:
        self.rank = rank
        self.faults = [fault for fault in faults if fault.rank in (None, rank)]

    @staticmethod
    def from_environment(rank: int = 0, environment: Mapping[str, str] = os.environ) -> Faults:
        parts = [part.strip() for part in environment.get(VARIABLE, "").split(";") if part.strip()]
        return Faults(*(_parse(part) for part in parts), rank=rank)

    def at(self, place: str, step: int) -> str | None:
        """Lets what was asked for happen here; the name of an act that the caller has to perform (``nan``, ``inf``, ``big``), or None."""
        for fault in self.faults:
            if fault.place == place and fault.step in (None, step) and fault.times > 0:
                fault.times -= 1
                return _act(fault.act)
        return None


def _act(act: str) -> str | None:
    if act in SIGNALS:
        os.kill(os.getpid(), SIGNALS[act])
    elif act == "hang":
        time.sleep(3600)
    elif act == "freeze":  # as C code that keeps the interpreter to itself
        ctypes.PyDLL(None).sleep(3600)
    elif act == "raise":
        raise RuntimeError("a fault was injected here")
    elif act == "die":
        raise ReaderDied
    elif act == "disk_full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif act == "unreadable":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    else:
        return act
    return None


def _parse(text: str) -> Fault:
    """``act@place`` and, behind commas, ``step=``, ``rank=``, ``times=``."""
    head, *rest = text.split(",")
    act, _, place = head.partition("@")
    try:
        values = {name.strip(): int(number) for name, number in (part.split("=") for part in rest)}
        if act not in ACTS or place.partition(":")[0] not in PLACES:
            raise ValueError
        return Fault(act, place, **values)
    except (ValueError, TypeError):
        remedy = f"ACT@PLACE[,step=N][,rank=N][,times=N] with ACT of {', '.join(ACTS)} and PLACE of {', '.join(PLACES)} (save:STAGE)"
        raise ValueError(f"{VARIABLE}: {text!r} is no fault; write {remedy}") from None
