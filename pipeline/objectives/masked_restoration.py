"""Restoration of hidden voxels (MAE, He et al. 2022; SimMIM, Xie et al. 2022), here for any network that gives dense features."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pipeline.objectives._heads import Voxelwise
from pipeline.objectives._shown import batch_of, contrast, mean_over, shown, target_of
from pipeline.plugins import ObjectiveConfig
from pipeline.step import Ask, Context, Loss, Objective, Step, ViewBatch


class MaskedRestoration(Objective):
    """L = mean over hidden voxels of (g(f(x with M hidden)) - x)^2 (MAE, section 3).

    With ``patch_vox`` the target is normalised by the mean and variance of its patch, which MAE found to be better on photographs.
    """

    class Config(ObjectiveConfig):
        """Settings of masked restoration."""

        view: str = Field(description="View that hides or alters voxels, such as one of `masked`.")
        patch_vox: int | None = Field(None, ge=2, description="Side of the patches whose mean and variance normalise the target; null: no.")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.head = Voxelwise(context.widths[0], context.channels)

    def asks(self) -> tuple[Ask, ...]:
        return (Ask(self.config.view, want=frozenset({"dense"})),)

    def forward(self, step: Step) -> Loss:
        batch, features = shown(step, self.config.view, "masked_restoration")
        target = target_of(batch, self.config.view, "masked_restoration")
        hidden = self._hidden(batch)
        with torch.autocast(target.device.type, enabled=False):
            restored = self.head(features.dense)
            if self.config.patch_vox:
                target = normalise_patches(target, self.config.patch_vox)
            else:
                restored = torch.sigmoid(restored)  # intensities lie in [0, 1]
            squared = (restored - target).square()
            metrics = {
                "error_visible": mean_over(squared.detach(), ~hidden & batch.valid),
                "share_hidden": (hidden & batch.valid).sum() / batch.valid.sum().clamp(min=1),
            }
            counts = {"error_visible": (~hidden & batch.valid).sum(), "share_hidden": batch.valid.sum()}
            if not self.config.patch_vox:
                metrics["contrast"], counts["contrast"] = contrast(restored, target)
            return Loss(mean_over(squared, hidden & batch.valid), metrics=metrics, counts=counts)

    def count(self, step: Step) -> Tensor:
        batch = batch_of(step, self.config.view, "masked_restoration")
        return (self._hidden(batch) & batch.valid).sum()

    def restored(self, step: Step) -> tuple[str, Tensor] | None:
        if self.config.patch_vox:
            return None  # normalised patches are no picture
        return self.config.view, torch.sigmoid(self.head(step.student[self.config.view][0].dense))

    def _hidden(self, batch: ViewBatch) -> Tensor:
        hidden = batch.altered if batch.hidden is None else batch.hidden
        if hidden is None:
            raise ValueError(f"objectives.masked_restoration.view: {self.config.view!r} hides no voxel; use a view such as `masked`")
        return hidden


def normalise_patches(target: Tensor, side: int, eps: float = 1e-6) -> Tensor:
    """(B, C, D, H, W): zero mean and unit variance in each patch of side^3 voxels; patches at the far faces may be thinner."""
    pool = {"kernel_size": side, "ceil_mode": True, "count_include_pad": False}
    mean = F.avg_pool3d(target, **pool)
    variance = (F.avg_pool3d(target.square(), **pool) - mean.square()).clamp(min=0)
    return (target - _spread_out(mean, target, side)) / (_spread_out(variance, target, side) + eps).sqrt()


def _spread_out(patches: Tensor, like: Tensor, side: int) -> Tensor:
    for axis in (2, 3, 4):
        patches = patches.repeat_interleave(side, axis).narrow(axis, 0, like.shape[axis])
    return patches
