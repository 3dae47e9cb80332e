"""Where the time of a step goes: spans of named stages, by CUDA events on a GPU and by the wall clock on a CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Spans may nest, and several threads may add some; ``seconds`` waits for the device and gives a sum for each stage."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.lock = device, threading.Lock()
        self.spans: dict[str, list[Any]] = {}
        self.on = True

    @contextmanager
    def span(self, stage: str) -> Iterator[None]:
        first = self._mark()
        try:
            yield
        finally:
            self.add(stage, (first, self._mark()))

    def add(self, stage: str, span: Any) -> None:
        """A pair of marks, or a number of seconds."""
        if self.on:
            with self.lock:
                self.spans.setdefault(stage, []).append(span)

    def timed(self, stage: str, act: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose calls are spans."""

        def call(*arguments: Any, **options: Any) -> Any:
            with self.span(stage):
                return act(*arguments, **options)

        return call

    def wait(self) -> float:
        """The wall clock, once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def clear(self) -> None:
        self.spans = {}

    def seconds(self) -> dict[str, float]:
        self.wait()
        return {stage: sum(self._length(span) for span in spans) for stage, spans in self.spans.items()}

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _length(self, span: Any) -> float:
        if isinstance(span, float):
            return span
        first, last = span
        return first.elapsed_time(last) / 1000 if self.device.type == "cuda" else last - first


class TimedStore:
    """A store whose reads are counted, by a loader's threads beside the steps: decoding is their CPU time, reading the rest of it."""

    def __init__(self, store: Any, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not name.startswith("crop"):
            return found

        def timed(*arguments: Any, **options: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            result = found(*arguments, **options)
            decode = time.thread_time() - cpu
            self._clock.add("decode", decode)
            self._clock.add("read", max(0.0, time.perf_counter() - wall - decode))
            return result

        return timed
