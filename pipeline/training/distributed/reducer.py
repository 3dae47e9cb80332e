"""Gradients averaged over the ranks while backward still runs.

Why not DistributedDataParallel: it counts one forward call to one backward call. Here a step encodes several views that want different
parts of the network (a contrast never reaches the decoder), GradCache encodes some of them twice, and heads are trained from detached
leaves. The means are DDP's: buckets in the reverse order of the parameters, each sent as soon as its last gradient is there (NCCL then runs
beside the rest of backward), once a step, in the last micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.training.distributed.ranks import Ranks

BUCKET_BYTES = 25 << 20  # as DDP: large enough to use the links, small enough to begin early


class Reducer:
    """``body`` are parameters that the last backward of a step reaches; gradients of ``heads`` are there before it begins."""

    def __init__(self, ranks: Ranks, heads: Iterable[nn.Parameter], body: Iterable[nn.Parameter]) -> None:
        self.ranks = ranks
        self.buckets = [list(heads), *_buckets(list(body)[::-1])]
        self.place = {parameter: number for number, bucket in enumerate(self.buckets) for parameter in bucket}
        self.expected = [set[nn.Parameter](), *map(set, self.buckets[1:])]  # the graph is the same in every step: learned in the first
        self.armed = False
        if ranks.world > 1:
            for parameter in self.place:
                parameter.register_post_accumulate_grad_hook(self._arrived)

    def arm(self) -> None:
        """Before the last backward of a step: from here on a gradient that arrives is complete."""
        if self.ranks.world > 1:
            self.armed, self.missing, self.flying = (
                True,
                [set(bucket) for bucket in self.expected],
                list[tuple[list[Tensor], Tensor, Any]](),
            )
            self._send()

    def finish(self) -> None:
        """Waits for the means; afterwards every gradient is that of the batch of all ranks."""
        if self.ranks.world == 1:
            return
        self._send(rest=True)
        self.armed = False
        self.expected = [{p for p in bucket if p.grad is not None} if n else set() for n, bucket in enumerate(self.buckets)]
        for gradients, together, work in self.flying:
            work.wait()
            for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def _arrived(self, parameter: nn.Parameter) -> None:
        if not self.armed:
            return
        number = self.place[parameter]
        assert number >= len(self.flying), "a gradient came after its bucket was sent: the graph differs from the last step's"
        self.missing[number].discard(parameter)
        self._send()

    def _send(self, rest: bool = False) -> None:
        """All buckets that are complete, in one order on all ranks."""
        while len(self.flying) < len(self.buckets) and (rest or not self.missing[len(self.flying)]):
            gradients = [p.grad for p in self.buckets[len(self.flying)] if p.grad is not None]
            if not gradients:
                self.flying.append(([], torch.empty(0), _Nothing()))
                continue
            together = torch.cat([gradient.reshape(-1) for gradient in gradients]).div_(self.ranks.world)
            self.flying.append((gradients, together, dist.all_reduce(together, async_op=True)))


class _Nothing:
    def wait(self) -> None:
        pass


def _buckets(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    buckets: list[list[nn.Parameter]] = []
    size = BUCKET_BYTES
    for parameter in parameters:
        if size >= BUCKET_BYTES:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.numel() * parameter.element_size()
    return buckets
