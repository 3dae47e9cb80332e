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

from pipeline.files import read_json, write_json
from pipeline.training.ranks import Ranks

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
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ended.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        every = min(5.0, self.patience_s / 4)
        while not self.ended.wait(every):
            # If this thread itself cannot run, since C code holds the interpreter, the C library's clock ends the process.
            faulthandler.dump_traceback_later(2 * self.patience_s + every, exit=True)
            if self.ended.is_set():
                faulthandler.cancel_dump_traceback_later()
                return
            waited = time.monotonic() - self.since
            self._say_alive(waited)
            if waited > self.patience_s:
                print(self._words(waited), file=sys.stderr, flush=True)
                faulthandler.dump_traceback(file=sys.__stderr__)
                os._exit(HUNG)

    def _say_alive(self, waited: float) -> None:
        if self.ranks.world > 1:
            card = {"what": self.what, "step": self.step, "for_s": round(waited, 1), "process": os.getpid(), "host": socket.gethostname()}
            with suppress(OSError):
                write_json(self.folder / f"rank_{self.ranks.rank}.json", {**card, "beat": time.monotonic_ns()})

    def _words(self, waited: float) -> str:
        own = f"vesalius: rank {self.ranks.rank} has made no progress for {waited:.0f} s: {self.what}, step {self.step}"
        return (
            f"{own} (training.patience_s is {self.patience_s:g}). {self._others()}Call again: the run continues from its last checkpoint."
        )

    def _others(self) -> str:
        """The ranks that stand behind, or that say nothing any more."""
        first = self._cards()
        time.sleep(min(6.0, self.patience_s / 2))
        found = []
        for rank, card in self._cards().items():
            silent = card["beat"] == first.get(rank, card)["beat"]
            if rank != self.ranks.rank and (silent or card["step"] < self.step or card["what"] != self.what):
                state = "is silent" if silent else f"has been at it for {card['for_s']:.0f} s"
                found.append(f"Rank {rank} (process {card['process']} on {card['host']}) {state}: {card['what']}, step {card['step']}. ")
        return "".join(found)

    def _cards(self) -> dict[int, dict]:
        cards = {}
        for rank in range(self.ranks.world if self.ranks.world > 1 else 0):
            with suppress(OSError, ValueError):
                cards[rank] = read_json(self.folder / f"rank_{rank}.json")
        return cards
