"""Where in the body is this voxel? A dense form of body part regression, which Yan et al. (2018) did for the height of whole slices."""

import torch
from pydantic import Field
from torch import Tensor

from pipeline.matrices import inverted
from pipeline.objectives._heads import Voxelwise
from pipeline.objectives._shown import batch_of, shown
from pipeline.plugins import ObjectiveConfig
from pipeline.step import Ask, Context, Loss, Objective, Step, ViewBatch


class BodyPosition(Objective):
    """L = mean over valid voxels v of |g(f(x))_v - u_v|_1 / 3, with u_v the body coordinates of v.

    They run from 0 to 1 in the body's box, towards Right, Anterior, Superior. Exploratory: it asks where a voxel is, which
    restoration need not know.
    """

    class Config(ObjectiveConfig):
        """Settings of body position."""

        view: str = Field(description="View whose voxels are to be placed, such as one of `clean` or `corrupt`.")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.head = Voxelwise(context.widths[0], 3)

    def asks(self) -> tuple[Ask, ...]:
        return (Ask(self.config.view, want=frozenset({"dense"})),)

    def forward(self, step: Step) -> Loss:
        batch, features = shown(step, self.config.view, "body_position")
        place = body_coordinates(batch, step.body)
        with torch.autocast(place.device.type, enabled=False):
            error = self.head(features.dense) - place
            valid = batch.valid.to(error.dtype)
            count = valid.sum().clamp(min=1)
            loss = (error.abs().mean(1) * valid).sum() / count
            distance = torch.einsum("bij,bjdhw->bidhw", mm_of_body(step.body), error.detach()).norm(dim=1)
            return Loss(loss, metrics={"error_mm": (distance * valid).sum() / count}, counts={"error_mm": valid.sum()})

    def count(self, step: Step) -> Tensor:
        return batch_of(step, self.config.view, "body_position").valid.sum()


def body_coordinates(batch: ViewBatch, body: Tensor) -> Tensor:
    """(B, 3, D, H, W) float32: body coordinates of every voxel of a view; ``body`` (B, 4, 4) maps RAS+ mm to them."""
    matrix = (body @ batch.affine).to(torch.float32)
    place = matrix[:, :3, 3, None, None, None]
    for axis, count in enumerate(batch.voxels.shape[2:]):
        along = torch.arange(count, device=matrix.device, dtype=torch.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        place = place + matrix[:, :3, axis, None, None, None] * along
    if batch.warp_mm is not None:
        place = place + torch.einsum("bij,bjdhw->bidhw", body[:, :3, :3].to(torch.float32), batch.warp_mm.float())
    return place


def mm_of_body(body: Tensor) -> Tensor:
    """(B, 3, 3) float32: a difference in body coordinates to one in mm."""
    return inverted(body[:, :3, :3]).to(torch.float32)
