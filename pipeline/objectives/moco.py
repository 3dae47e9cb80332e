"""MoCo v2+ (He et al. 2020; Chen et al. 2020, "Improved baselines"; symmetric, with a cosine momentum, as in solo-learn's mocov2plus)."""

import copy
import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.objectives._gather import gather
from pipeline.objectives._heads import Projector
from pipeline.objectives._shown import pooled_pair
from pipeline.plugins import ObjectiveConfig
from pipeline.step import Ask, Context, Loss, Objective, Step

# Scans below which a queue of that length is used: longer than about half the scans, a queue repels a scan from itself.
QUEUES = (
    (50, 16),
    (100, 32),
    (250, 64),
    (500, 128),
    (1000, 256),
    (2000, 512),
    (4000, 1024),
    (10_000, 2048),
    (20_000, 4096),
    (40_000, 8192),
)
LONGEST = 65_536


class Moco(Objective):
    """L = CE over [q1 . k2, q1 . Queue2] / T plus the same with 1 and 2 exchanged, halved; k and Queue come from the slow teacher.

    A key of the query's own subject in the queue is no negative; a queue that is not yet full offers what it has.
    """

    class Config(ObjectiveConfig):
        """Settings of MoCo v2+."""

        view: str = Field(description="View that gives two crops, such as one of `augment`.")
        temperature: float = Field(0.2, gt=0, description="T.")
        hidden: int = Field(256, ge=1, description="Width of the projector's hidden layer.")
        width: int = Field(128, ge=1, description="Width of the projector's output.")
        queue: int | None = Field(
            None, ge=1, description="Keys in the queue of each view; null: a quarter to a half of the number of scans."
        )
        momentum: float = Field(0.99, ge=0, lt=1, description="Of the teacher at the start; rises as a cosine.")
        final_momentum: float = Field(0.999, ge=0, le=1, description="Of the teacher at the end.")
        exclude_same_subject: bool = Field(
            True, description="Keys of the query's own subject are no negatives: they may show the same place."
        )
        prune_above: float | None = Field(
            None,
            gt=-1,
            le=1,
            description="Keys whose cosine to the query reaches this are no negatives: likely the same anatomy; null: none.",
        )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.projector = Projector(context.widths[-1], config.hidden, config.width)
        self.slow_projector = copy.deepcopy(self.projector).requires_grad_(False)
        length = config.queue or queue_length(context.num_scans)
        self.register_buffer("queue", torch.zeros(2, length, config.width))
        self.register_buffer("subject", torch.full((length,), -1, dtype=torch.int64))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def asks(self) -> tuple[Ask, ...]:
        return (Ask(self.config.view), Ask(self.config.view, of="teacher"))

    def forward(self, step: Step) -> Loss:
        q1, q2 = (self.projector(h) for h in pooled_pair(step.student[self.config.view], self.config.view, "moco"))
        k1, k2 = self._keys(step)
        empty = self.subject[None] < 0
        same = self.subject[None] == step.ids.subject[:, None] if self.config.exclude_same_subject else empty
        masked = empty | same
        first, second = (self._logits(q, k, queue, masked) for q, k, queue in ((q1, k2, self.queue[1]), (q2, k1, self.queue[0])))
        answer = torch.zeros(len(q1), dtype=torch.int64, device=q1.device)
        loss = (F.cross_entropy(first, answer) + F.cross_entropy(second, answer)) / 2
        accuracy = (torch.cat([first, second]).argmax(1) == 0).float().mean()
        negatives = (~masked).expand(len(q1), -1).sum(1).float().mean()
        return Loss(loss, metrics={"accuracy": accuracy, "negatives": negatives}, points={"spread": q1.detach()})

    def update(self, step: Step) -> None:
        """The step's keys take the place of the oldest ones; any batch size, also one above the queue's length."""
        length = self.queue.shape[1]
        keys = torch.stack([gather(k) for k in self._keys(step)])[:, -length:]
        subject = gather(step.ids.subject)
        place = (self.position + torch.arange(len(subject), device=keys.device))[-length:] % length
        self.queue[:, place] = keys
        self.subject[place] = subject[-length:]
        self.position.copy_((self.position + len(subject)) % length)

    def momentum(self, progress: float) -> float:
        """m_end - (m_end - m_start)(cos(pi progress) + 1) / 2 (BYOL, Grill et al. 2020)."""
        return self.config.final_momentum - (self.config.final_momentum - self.config.momentum) * (math.cos(math.pi * progress) + 1) / 2

    def pairs(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        return ((self.projector, self.slow_projector),)

    def _keys(self, step: Step) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            k1, k2 = (self.slow_projector(h) for h in pooled_pair(step.teacher[self.config.view], self.config.view, "moco"))
        return k1, k2

    def _logits(self, query: Tensor, key: Tensor, queue: Tensor, masked: Tensor) -> Tensor:
        """(B, 1 + K): the positive first."""
        with torch.autocast(query.device.type, enabled=False):
            negatives = query @ queue.T
            if self.config.prune_above is not None:  # the purposive pruner of Adam (Hosseinzadeh Taher et al. 2023), there at 0.8
                masked = masked | (negatives.detach() >= self.config.prune_above)
            negatives = negatives.masked_fill(masked, -torch.inf)
            return torch.cat([(query * key).sum(1, keepdim=True), negatives], 1) / self.config.temperature


def queue_length(num_scans: int) -> int:
    """Keys for a number of scans: a quarter to a half of it."""
    return next((length for below, length in QUEUES if num_scans < below), LONGEST)
