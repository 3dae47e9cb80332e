"""Views from CUDA graphs: a view launches up to a thousand small kernels, which a GPU runs several times faster than Python asks for them.

Work on a batch is captured once for each shape of its tensors, and replayed from then on. A batch is copied to where the capture read, and
what a replay wrote is copied out, so nobody holds memory of a graph. The kernels are those of a plain call, and so are the bits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from pipeline.nested import mapped, tensors

MOST_SHAPES = 4  # a run has two or three: its batch, a smaller last micro-batch, that of an evaluation
WARM_UP = 2  # calls before a capture: tables are copied to the device, libraries choose their kernels


class Replayed:
    """``work`` of one argument, a value of tensors, replayed on a GPU; everywhere else, and where it cannot be captured, called as it is.

    Work must be a function of those tensors alone and look at none of their values. ``told`` hears once why work is not captured.
    """

    def __init__(self, work: Callable[[Any], Any], told: Callable[[str], None], capture: Callable[..., Any] | None = None) -> None:
        self.work, self.told, self.capture = work, told, capture or Graph
        self.graphs: dict[Hashable, Callable[[Any], Any]] = {}
        self.plain = False

    def __call__(self, value: Any) -> Any:
        held = tensors(value)
        if self.plain or not self._fit(held):
            return self.work(value)
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in held)
        if shapes not in self.graphs:
            if len(self.graphs) == MOST_SHAPES:
                return self.work(value)
            try:
                self.graphs[shapes] = self.capture(self.work, value)
            except (RuntimeError, AttributeError, TypeError) as error:
                self.plain = True
                self.told(f"training.graphs: views are computed without CUDA graphs: {str(error).splitlines()[0]}")
                return self.work(value)
        return self.graphs[shapes](value)

    def _fit(self, held: list[Tensor]) -> bool:
        return self.capture is not Graph or all(tensor.is_cuda for tensor in held)


class Graph:
    """One capture, on memory of its own."""

    def __init__(self, work: Callable[[Any], Any], value: Any) -> None:
        self.given = mapped(Tensor.clone, value)
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                work(self.given)
        current.wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # Only this thread's calls count: others pin memory for the next batches meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.made = work(self.given)

    def __call__(self, value: Any) -> Any:
        mapped(Tensor.copy_, self.given, value)
        self.graph.replay()
        return mapped(Tensor.clone, self.made)
