"""Naming the visual word in a crop (Haghighi et al., IEEE TMI 2021: the self-classification of TransVW)."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.objectives._shown import batch_of, shown
from pipeline.plugins import ObjectiveConfig
from pipeline.step import Ask, Context, Loss, Objective, Step, ViewBatch


class VisualWords(Objective):
    """L = sum over crops of w CE(h(f(x~)), word in the centre of the crop) / sum of w.

    w is 0 where a crop has no word in its centre, was mirrored, or shows less than ``min_visible`` of its voxels; elsewhere it is the
    product of the visible share and of the confidence in the instance, as far as the settings ask for them. Without any weight the loss
    is 0, with a gradient of 0. The head reads the encoder's coarsest level, never the decoder.
    """

    class Config(ObjectiveConfig):
        """Settings of word classification."""

        view: str = Field(description="View with one crop a sample, such as one of `corrupt`. It must not flip: a flip changes the word.")
        min_visible: float = Field(0.25, ge=0, le=1, description="Crops that show a smaller share of their voxels are not classified.")
        by_visible: bool = Field(True, description="Weight a crop by the share of it that can be seen.")
        by_confidence: bool = Field(True, description="Weight a crop by the confidence in its instance of the word.")
        label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the answer that is spread evenly over all words.")
        hidden: int = Field(256, ge=1, description="Width of the head.")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        if context.lexicon is None or context.lexicon.empty:
            raise ValueError("objectives.visual_words: the run has no lexicon; add `words: {encoder: RECIPE, ...}` to the recipe")
        self.num_words = int(context.lexicon["word_id"].max()) + 1
        self.head = WordHead(context.widths[-1], config.hidden, self.num_words)

    def asks(self) -> tuple[Ask, ...]:
        return (Ask(self.config.view, want=frozenset({"levels"})),)

    def forward(self, step: Step) -> Loss:
        batch, features = shown(step, self.config.view, "visual_words")
        word, classified, weight = self._answers(step, batch)
        with torch.autocast(batch.voxels.device.type, enabled=False):
            logits = self.head(features.levels[-1])
            each = F.cross_entropy(logits, word * classified, reduction="none", label_smoothing=self.config.label_smoothing)
            loss = (weight * each).sum() / weight.sum().clamp(min=1e-6)
        return Loss(loss, metrics=hits(logits.detach().argmax(1) == word, classified, weight))

    def count(self, step: Step) -> Tensor:
        return self._answers(step, batch_of(step, self.config.view, "visual_words"))[2].sum()

    def _answers(self, step: Step, batch: ViewBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) each: the word in the centre, whether it is asked for, and w."""
        word, places, visible = step.places.word[:, 0], step.places, visible_share(batch)
        classified = places.valid[:, 0] & (word < self.num_words) & (visible >= self.config.min_visible) & ~mirrored(batch)
        weight = classified.float()
        if self.config.by_visible:
            weight = weight * visible
        if self.config.by_confidence:
            weight = weight * places.confidence[:, 0].float()
        return word, classified, weight


class WordHead(nn.Module):
    """A 3 x 3 x 3 convolution, norm, ReLU, mean over the crop, linear: (B, C, D, H, W) -> logits (B, words), in float32.

    The norm spans all channels and voxels of a crop: one of single channels would take away what the mean is to read.
    """

    def __init__(self, width: int, hidden: int, words: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, hidden, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, hidden)
        self.last = nn.Linear(hidden, words)

    def forward(self, level: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.conv(level.float()))).mean((2, 3, 4)))


def visible_share(batch: ViewBatch) -> Tensor:
    """(B,) share of each crop left to see: the view's own answer, else that of the voxels inside the volume."""
    return batch.answers["visible"].float() if "visible" in batch.answers else batch.valid.float().mean((1, 2, 3))


def mirrored(batch: ViewBatch) -> Tensor:
    """(B,) bool: crops in which Left and Right are swapped, so that they show no longer the word that stands on them."""
    return batch.answers.get("mirrored", torch.zeros(len(batch.voxels), dtype=torch.bool, device=batch.voxels.device))


def hits(right: Tensor, classified: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Share of right answers, each classified crop counted once and by its weight; the share of crops that were classified."""
    right = right & classified
    return {
        "accuracy": right.float().sum() / classified.float().sum().clamp(min=1.0),
        "accuracy_weighted": (right * weight).sum() / weight.sum().clamp(min=1e-6),
        "share_classified": classified.float().mean(),
    }
