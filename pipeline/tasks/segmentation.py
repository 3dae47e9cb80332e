"""Segmentation: each voxel gets one of the classes, or background; judged by Dice."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import plugins
from pipeline.step import Context
from pipeline.tasks._windows import sliding

BACKGROUND = "background"


class Segmentation:
    """A 1 x 1 x 1 convolution over the decoder's features, soft Dice plus cross-entropy, sliding windows over whole volumes."""

    class Config(plugins.Config):
        """Settings of a segmentation task."""

        classes: dict[int, str] = Field(
            min_length=1,
            description="Label value -> name of the structure. 0 is background and needs no entry.",
            json_schema_extra={"minProperties": 1},
        )
        loss: Literal["dice_ce", "dice", "cross_entropy"] = Field("dice_ce", description="dice_ce is the sum of the other two.")
        overlap: float = Field(0.5, ge=0, lt=1, description="Of neighbouring windows at prediction, as a share of a window.")
        window_weights: Literal["gaussian", "uniform"] = Field("gaussian", description="How much each voxel of a window counts.")

        @field_validator("classes")
        @classmethod
        def _labels_are_bytes(cls, value: dict[int, str]) -> dict[int, str]:
            value = {number: name for number, name in sorted(value.items()) if (number, name) != (0, BACKGROUND)}
            wrong = [number for number in value if not 1 <= number <= 255]
            if wrong or not value:
                raise ValueError(f"label values must be 1 to 255, not {wrong[0] if wrong else 0}; 0 is background and needs no entry")
            if len(set(value.values())) < len(value):
                raise ValueError("two label values have the same name; give each structure a name of its own")
            return value

    def __init__(self, config: Config, context: Context) -> None:
        self.config, self.context = config, context
        self.classes = dict(config.classes)
        self.values = (0, *self.classes)  # label value of each output channel

    def head(self, dense_width: int) -> nn.Module:
        """(B, dense_width, D, H, W) -> logits (B, classes + 1, D, H, W); channel 0 is background."""
        return nn.Conv3d(dense_width, len(self.values), 1)

    def targets(self, labels: UInt8[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
        """Label values -> output channels. A value that is no class is a ``ValueError``."""
        lookup = np.full(256, -1, dtype=np.int64)
        lookup[list(self.values)] = np.arange(len(self.values))
        found = lookup[labels]
        if (found < 0).any():
            self.check_values(np.unique(labels).tolist(), "a label volume")
        return found

    def check_values(self, values: Sequence[int], of: str) -> None:
        """A value that is no class is a ``ValueError`` that names it."""
        unknown = sorted(set(values) - set(self.values))
        if unknown:
            known = ", ".join(f"{value}: {name}" for value, name in self.classes.items())
            raise ValueError(
                f"{of} has the label value {unknown[0]}, which is not under kind.segmentation.classes ({known}); name it there"
            )

    def loss(self, logits: Float[Tensor, "B K D H W"], labels: Int64[Tensor, "B D H W"]) -> Float[Tensor, ""]:
        """In fp32. ``labels`` holds output channels."""
        logits = logits.float()
        parts = []
        if self.config.loss in ("dice_ce", "cross_entropy"):
            parts.append(F.cross_entropy(logits, labels))
        if self.config.loss in ("dice_ce", "dice"):
            parts.append(soft_dice_loss(logits.softmax(1), labels))
        return torch.stack(parts).sum()

    @torch.no_grad()
    def predict(
        self, forward: Callable[[Tensor], Tensor], voxels: Float[Tensor, "C D H W"], size_vox: Sequence[int], batch: int = 4
    ) -> UInt8[np.ndarray, "D H W"]:
        """Label values of a whole volume in [0, 1]; ``forward`` gives logits of (B, C, *window)."""
        logits = sliding(forward, voxels, size_vox, self.config.overlap, self.config.window_weights, batch)
        return np.asarray(self.values, dtype=np.uint8)[logits.argmax(0).cpu().numpy()]


def soft_dice_loss(probabilities: Float[Tensor, "B K D H W"], labels: Int64[Tensor, "B D H W"], smooth: float = 1e-5) -> Float[Tensor, ""]:
    """1 - mean soft Dice (Milletari et al. 2016, with plain sums below) over the batch as one volume.

    Background does not count; a class absent from the batch does not either, since its Dice has no overlap to grow (cross-entropy
    punishes its false voxels). 0 if every class is absent.
    """
    one_hot = F.one_hot(labels, probabilities.shape[1]).movedim(-1, 1).to(probabilities.dtype)
    axes = (0, 2, 3, 4)
    both, size = (probabilities * one_hot).sum(axes)[1:], one_hot.sum(axes)[1:]
    dice = (2 * both + smooth) / (probabilities.sum(axes)[1:] + size + smooth)
    present = (size > 0).to(dice.dtype)
    return ((1 - dice) * present).sum() / present.sum().clamp_min(1)
