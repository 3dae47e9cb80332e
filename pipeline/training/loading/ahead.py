"""Reading ahead in a thread of its own, whose death, hanging or starving is an error with a name and in bounded time.

There are no worker processes, and nothing of ours lies in /dev/shm. The thread is a daemon: one that hangs in a system call keeps nobody
from ending.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

LOOK_S = 0.2


class ReaderLost(ValueError):
    """No batch came in time, or the thread that reads them is gone."""


def read_ahead(make: Callable[[int], Any], steps: Iterable[int], ahead: int, patience_s: float, doing: Callable[[], str]) -> Iterator[Any]:
    """``make(step)`` of each step, in order, up to ``ahead`` of them made before they are asked for. ``doing`` says what is read now."""
    made: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(ahead)
    ended = threading.Event()
    steps = list(steps)

    def work() -> None:
        for step in steps:
            try:
                item = (make(step), None)
            except Exception as error:  # whatever it is, the training thread raises it
                item = (None, error)
            while not ended.is_set():
                with suppress(queue.Full):
                    made.put(item, timeout=LOOK_S)
                    break
            if ended.is_set() or item[1]:
                return

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    try:
        for step in steps:
            value, error = _next(made, thread, patience_s, f"step {step}", doing)
            if error:
                raise error
            yield value
    finally:
        ended.set()
        thread.join(timeout=1.0)


def _next(made: queue.Queue, thread: threading.Thread, patience_s: float, step: str, doing: Callable[[], str]) -> tuple[Any, Any]:
    begun = time.monotonic()
    while True:
        try:
            return made.get(timeout=LOOK_S)
        except queue.Empty:
            if not thread.is_alive() and made.empty():
                raise ReaderLost(f"{step}: the thread that reads batches died while it read {doing()}; call again to resume") from None
            if time.monotonic() - begun > patience_s:
                raise ReaderLost(
                    f"{step}: no batch came within training.patience_s = {patience_s:g} s; the thread hangs or starves reading {doing()}. "
                    "Look at the file system that holds the store, then call again to resume"
                ) from None
