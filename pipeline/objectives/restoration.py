"""Restoration of corrupted crops (Models Genesis, Zhou et al. 2019, MedIA 2021; the restoration half of TransVW, Haghighi et al. 2021)."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.objectives._heads import Voxelwise
from pipeline.objectives._shown import batch_of, contrast, mean_over, shown, target_of
from pipeline.plugins import ObjectiveConfig
from pipeline.step import Ask, Context, Loss, Objective, Step, ViewBatch


class Restoration(Objective):
    """L = mean over valid voxels of w (g(f(x~)) - x)^2, with x~ the corrupted crop and x the original.

    g ends in a 1 x 1 x 1 convolution and a sigmoid, since intensities lie in [0, 1]. w is 1, or ``altered_weight`` where the
    corruption changed the voxel: skip connections let a decoder copy the others.
    """

    class Config(ObjectiveConfig):
        """Settings of restoration."""

        view: str = Field(description="View with a target, such as one of `corrupt`.")
        distance: Literal["mse", "l1"] = Field("mse", description="Squared or absolute difference.")
        altered_weight: float = Field(1.0, gt=0, description="Weight of an altered voxel; an unaltered one weighs 1.")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.head = Voxelwise(context.widths[0], context.channels)

    def asks(self) -> tuple[Ask, ...]:
        return (Ask(self.config.view, want=frozenset({"dense"})),)

    def forward(self, step: Step) -> Loss:
        batch, features = shown(step, self.config.view, "restoration")
        target = target_of(batch, self.config.view, "restoration")
        with torch.autocast(target.device.type, enabled=False):
            restored = torch.sigmoid(self.head(features.dense))
            difference = restored - target
            error = difference.square() if self.config.distance == "mse" else difference.abs()
            loss = mean_over(error, self._weights(batch))
            altered = altered_in(batch)
            counts = {"error_altered": altered & batch.valid, "error_unaltered": ~altered & batch.valid, "share_altered": batch.valid}
            counts = {name: where.sum() for name, where in counts.items()}
            metrics = errors(difference.detach(), altered, batch.valid)
            metrics["contrast"], counts["contrast"] = contrast(restored, target)
            return Loss(loss, metrics=metrics, counts=counts)

    def count(self, step: Step) -> Tensor:
        return self._weights(batch_of(step, self.config.view, "restoration")).sum()

    def restored(self, step: Step) -> tuple[str, Tensor]:
        return self.config.view, torch.sigmoid(self.head(step.student[self.config.view][0].dense))

    def _weights(self, batch: ViewBatch) -> Tensor:
        return batch.valid * torch.where(altered_in(batch), self.config.altered_weight, 1.0)


def altered_in(batch: ViewBatch) -> Tensor:
    """(B, D, H, W) bool: where a view changed the crop; nowhere if it does not say."""
    return torch.zeros_like(batch.valid) if batch.altered is None else batch.altered


def errors(difference: Tensor, altered: Tensor, valid: Tensor) -> dict[str, Any]:
    """Mean squared error on altered and on unaltered valid voxels (0 where there are none), and the share that is altered."""
    squared = difference.square()
    return {
        "error_altered": mean_over(squared, altered & valid),
        "error_unaltered": mean_over(squared, ~altered & valid),
        "share_altered": (altered & valid).sum() / valid.sum().clamp(min=1),
    }
