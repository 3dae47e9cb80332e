"""A watchdog beside the training thread: what makes no progress for too long ends with an error that says where, on which rank.

A hung rank leaves the others waiting in a collective, for as long as its time-out. Each rank therefore says every few seconds, in
``alive/rank_N.json`` of the run's folder, what it does; the one whose patience ends first names those that are behind.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import torch

from pipeline.files import read_json, write_json
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.signals import Stopped

WAITING = ("torch/distributed", "distributed/ranks.py", "distributed/reducer.py", "torch/autograd")
LOST = "ended, since it lost another rank"
HUNG = 70  # exit code: an internal failure (EX_SOFTWARE), so no "resume me" that a hanging disk would repeat for ever


class Watchdog:
    """``with Watchdog(...) as dog: dog.doing("step", 7)``: each call is a sign of life."""

    def __init__(self, folder: Path, ranks: Ranks, patience_s: float) -> None:
        self.folder, self.ranks, self.patience_s = folder / "alive", ranks, patience_s
        self.what, self.step, self.since = "starting", 0, time.monotonic()
        self.ended = threading.Event()

    def doing(self, what: str, step: int) -> None:
        self.what, self.step, self.since = what, step, time.monotonic()

    def __enter__(self) -> Watchdog:
        self.since = time.monotonic()
        self._arm()
        self._say_alive(0.0)
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ended.set()
        self.thread.join(1.0)
        faulthandler.cancel_dump_traceback_later()
        if error is None or isinstance(error, Stopped):  # after an error the others may still ask what this rank did
            self._card(self.ranks.rank).unlink(missing_ok=True)
            with suppress(OSError):  # not there, or others' cards still in it
                self.folder.rmdir()
        elif self.ranks.world > 1 and _says_lost(error):
            raise ValueError(self._lost()) from error

    def _watch(self) -> None:
        every = self._every()
        while not self.ended.wait(every):
            self._arm()
            if self.ended.is_set():
                faulthandler.cancel_dump_traceback_later()
                return
            waited = time.monotonic() - self.since
            self._say_alive(waited)
            if waited > self.patience_s:
                print(self._words(waited), file=sys.stderr, flush=True)
                faulthandler.dump_traceback(file=sys.__stderr__)
                os._exit(HUNG)

    def _arm(self) -> None:
        """If the watching thread itself cannot run, since C code holds the interpreter, a thread in C ends the process."""
        faulthandler.dump_traceback_later(2 * self.patience_s, exit=True, file=sys.__stderr__)

    def _say_alive(self, waited: float) -> None:
        if self.ranks.world > 1:
            card = {"what": self.what, "step": self.step, "for_s": round(waited, 1), "process": os.getpid(), "host": socket.gethostname()}
            card |= {"place": _place(), "waits": _waits(), "beat": time.monotonic_ns()}
            with suppress(OSError):
                write_json(self._card(self.ranks.rank), card)

    def _words(self, waited: float) -> str:
        who = f"vesalius: rank {self.ranks.rank}"
        if _waits():
            text = f"{who} has waited {waited:.0f} s for the other ranks in step {self.step}. {self._others()}"
        else:
            text = f"{who} has made no progress for {waited:.0f} s: {self.what}, step {self.step}, at {_place()}. "
        return f"{text}Call again: the run continues from its last checkpoint. (training.patience_s sets how long is too long.)"

    def _others(self) -> str:
        """The ranks that do not wait for others themselves, or that say nothing any more."""
        first = self._cards()
        time.sleep(2.5 * self._every())
        found = []
        for rank, card in self._cards().items():
            silent = _is_silent(card, first.get(rank, card))
            if rank != self.ranks.rank and (silent or not card["waits"]):
                state = "is silent; it was" if silent else f"has been for {card['for_s']:.0f} s"
                place = f"{card['what']}, step {card['step']}, at {card['place']}"
                found.append(f"Rank {rank} (process {card['process']} on {card['host']}) {state}: {place}. ")
        found += [f"Rank {rank} has never said anything. " for rank in range(self.ranks.world) if rank not in first]
        return "".join(found) or "No rank says that it hangs: look at the network. "

    def _lost(self) -> str:
        """Of a collective that failed: the ranks whose processes are gone from this host, or else those that fall silent."""
        step, self.what = self.step, LOST
        self._say_alive(0.0)
        first, last, gone = self._cards(), time.monotonic() + 2.5 * self._every(), {}
        while not gone and time.monotonic() < last:
            time.sleep(0.1)
            gone = {rank: card for rank, card in self._cards().items() if _is_gone(card)}
        for rank, card in () if gone else self._cards().items():
            if _is_silent(card, first.get(rank, card)) and card["what"] != LOST:
                gone[rank] = card
        who = "".join(
            f"Rank {rank} (process {card['process']} on {card['host']}) is gone or out of reach; it last said: {card['what']}, step "
            f"{card['step']}. Look at its messages. "
            for rank, card in gone.items()
        )
        who = who or "Every rank says that it lost another: look at the network. "
        return f"rank {self.ranks.rank} lost another rank in step {step}. {who}Call again: the run continues from its last checkpoint."

    def _card(self, rank: int) -> Path:
        return self.folder / f"rank_{rank}.json"

    def _every(self) -> float:
        return min(5.0, self.patience_s / 8)

    def _cards(self) -> dict[int, dict]:
        cards = {}
        for rank in range(self.ranks.world if self.ranks.world > 1 else 0):
            with suppress(OSError, ValueError):
                cards[rank] = read_json(self._card(rank))
        return cards


def _says_lost(error: BaseException) -> bool:
    """Whether a collective failed since another rank does not answer: gloo has no type of error for that."""
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in "".join(str(error).split()))


def _is_silent(card: dict, before: dict) -> bool:
    return card["beat"] == before["beat"]


def _is_gone(card: dict) -> bool:
    """Whether the process of a rank on this host has ended."""
    import psutil

    if card["host"] != socket.gethostname():
        return False
    try:
        return psutil.Process(card["process"]).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _place() -> str:
    """The line of code at which the training thread is."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}" if frame else "no line"


def _waits() -> bool:
    """Whether the training thread is in a collective, or in what calls one."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    return frame is not None and any(part in frame.f_code.co_filename for part in WAITING)
