"""SimCLR (Chen et al. 2020): two views of a crop attract each other, all other crops of the batch repel."""

import torch
from pydantic import Field
from torch import Tensor

from pipeline.objectives._gather import gather
from pipeline.objectives._heads import Projector
from pipeline.objectives._shown import pooled_pair
from pipeline.plugins import ObjectiveConfig
from pipeline.step import Ask, Context, Loss, Objective, Step


class Simclr(Objective):
    """NT-Xent (equation 1): l(i, j) = -log[ exp(cos(z_i, z_j) / T) / sum over k != i of exp(cos(z_i, z_k) / T) ].

    The mean runs over all 2N anchors i, of all ranks; j is the other view of the same crop.
    """

    couples = True

    class Config(ObjectiveConfig):
        """Settings of SimCLR."""

        view: str = Field(description="View that gives two crops, such as one of `augment`.")
        temperature: float = Field(0.2, gt=0, description="T.")
        hidden: int = Field(256, ge=1, description="Width of the projector's hidden layer.")
        width: int = Field(128, ge=1, description="Width of the projector's output.")
        exclude_same_subject: bool = Field(
            True, description="Other crops of the same subject are no negatives: they may show the same place."
        )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.projector = Projector(context.widths[-1], config.hidden, config.width)

    def asks(self) -> tuple[Ask, ...]:
        return (Ask(self.config.view),)

    def forward(self, step: Step) -> Loss:
        first, second = (gather(self.projector(h)) for h in pooled_pair(step.student[self.config.view], self.config.view, "simclr"))
        subject = gather(step.ids.subject)
        z = torch.cat([first, second])
        with torch.autocast(z.device.type, enabled=False):
            allowed = candidates(torch.cat([subject, subject]), self.config.exclude_same_subject)
            logits = (z @ z.T / self.config.temperature).masked_fill(~allowed, -torch.inf)
            partner = torch.arange(len(z), device=z.device).roll(len(first))
            positive = logits.gather(1, partner[:, None])[:, 0]
            loss = (torch.logsumexp(logits, 1) - positive).mean()
        accuracy = (logits.argmax(1) == partner).float().mean()
        return Loss(loss, metrics={"accuracy": accuracy}, points={"spread": first.detach()})


def candidates(subject: Tensor, exclude_same_subject: bool) -> Tensor:
    """(2N, 2N) bool: who may stand in the denominator of anchor i: its partner always, itself never, its own subject if allowed."""
    count = len(subject)
    itself = torch.eye(count, dtype=torch.bool, device=subject.device)
    if not exclude_same_subject:
        return ~itself
    return (subject[:, None] != subject[None]) | itself.roll(count // 2, 1)
