"""What views, objectives, networks and the learner hand to each other.

A loader ships a ``Region`` (stored voxels with a margin); a ``View`` turns it into a ``ViewBatch``; the ``Network`` turns
that into ``Features``; an ``Objective`` reads a ``Step`` and returns a ``Loss``. All are frozen values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pipeline.nested import mapped

if TYPE_CHECKING:
    import pandas as pd

Hide = Literal["none", "drop", "token", "sparse"]
Want = Literal["pooled", "levels", "tokens", "blocks", "dense"]


@dataclass(frozen=True)
class LevelGeometry:
    """Where feature voxels lie: voxel j of a level sits at input index ``stride * j + offset_vox``, per axis."""

    stride: tuple[int, int, int]
    offset_vox: tuple[float, float, float]


@dataclass(frozen=True)
class Context:
    """All that a plug-in may size itself by, before step 0."""

    num_scans: int
    batch: int
    num_steps: int
    size_vox: tuple[int, int, int]
    channels: int
    seed: int = 0
    widths: tuple[int, ...] = ()
    geometry: tuple[LevelGeometry, ...] = ()
    lexicon: "pd.DataFrame | None" = None


@dataclass(frozen=True)
class Ids:
    """(B,) int64 each: the number of the sample in the run, row of the scan in the manifest, number of the subject cluster."""

    sample: Tensor
    scan: Tensor
    subject: Tensor


@dataclass(frozen=True)
class Places:
    """The words in reach of a region, padded to W: position in RAS+ mm (B, W, 3), and (B, W) each: word id, size, confidence, valid."""

    mm: Tensor
    word: Tensor
    size_mm: Tensor
    confidence: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Region:
    """What the loader ships. A view crops ``size_vox`` around the centre of the region, so a margin changes no view's content.

    voxels (B, C, D, H, W) int16 as stored; window (B, C, 2) float32: the stored values that normalise to 0 and 1; affine
    (B, 4, 4) float64: region index to RAS+ mm; body (B, 4, 4) float64: RAS+ mm to body coordinates in [0, 1];
    inside (B, 3, 2) int64: the index range, low to high, that lies inside the volume (the rest is padding).
    """

    voxels: Tensor
    window: Tensor
    affine: Tensor
    body: Tensor
    inside: Tensor
    ids: Ids
    places: Places
    size_vox: tuple[int, int, int]
    labels: Tensor | None = None  # (B, D, H, W) int64, only where a task asked for them
    mates: "tuple[Region, ...]" = ()

    def low_vox(self) -> tuple[int, int, int]:
        """Region index where the centred crop of ``size_vox`` begins."""
        return tuple(n // 2 - s // 2 for n, s in zip(self.voxels.shape[2:], self.size_vox, strict=True))


@dataclass(frozen=True)
class ViewBatch:
    """One tensor that the network sees, and where each of its voxels is.

    voxels (B, C, D, H, W) float32 in [0, 1]; affine (B, 4, 4) float64: view index to RAS+ mm (before any warp); valid
    (B, D, H, W) bool: inside the volume; hidden (B, D, H, W) bool: what ``hide`` takes from the network; target: what a
    restoration should give back, shaped as voxels; altered (B, D, H, W) bool: where voxels differ from the target;
    answers: what the view knows and the network must find, such as ``visible`` (B,) share of the crop left to see.
    """

    voxels: Tensor
    affine: Tensor
    valid: Tensor
    target: Tensor | None = None
    altered: Tensor | None = None
    hidden: Tensor | None = None
    hide: Hide = "none"
    warp_mm: Tensor | None = None
    answers: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Features:
    """What a network gives: pooled (B, widths[-1]); levels, fine to coarse, (B, widths[l], ...); dense (B, C, D, H, W)."""

    pooled: Tensor | None = None
    levels: tuple[Tensor, ...] = ()
    tokens: Tensor | None = None
    blocks: tuple[Tensor, ...] = ()
    dense: Tensor | None = None


@dataclass(frozen=True)
class Ask:
    """One view instance through one encoder, and which of its features."""

    view: str
    of: Literal["student", "teacher"] = "student"
    want: frozenset[Want] = frozenset({"pooled"})


@dataclass(frozen=True)
class Step:
    """What an objective reads. ``views`` and features are tuples: a multi-crop view gives several."""

    views: Mapping[str, tuple[ViewBatch, ...]]
    student: Mapping[str, tuple[Features, ...]]
    teacher: Mapping[str, tuple[Features, ...]]
    ids: Ids
    places: Places
    body: Tensor
    progress: float = 0.0
    step: int = 0
    epoch: int = 0
    keys: Tensor | None = None
    training: bool = True


@dataclass(frozen=True)
class Loss:
    """value: what is descended; terms: its parts, unweighted; metrics: figures without a gradient. All 0-d, on the device.
    counts: items that a metric is the mean of, where they are not crops. points: (N, D) by the name of a figure, which becomes their spread
    over the whole batch (``training.tally``): parts of a batch could not tell it."""

    value: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    points: Mapping[str, Tensor] = field(default_factory=dict)


class View:
    """Base of all views. All randomness is in ``draw``; ``apply`` is pure and batched, and never writes into the region."""

    num_mates = 0

    def __init__(self, config: Any, context: Context) -> None:
        self.config = config
        self.context = context

    def extent_vox(self) -> tuple[int, int, int]:
        """Size of the region this view needs around the centre; at least the crop itself."""
        return self.context.size_vox

    def draw(self, keys: Tensor, region: Region) -> Mapping[str, Tensor]:
        """(B,) int64 keys -> this view's parameters, a leading axis B each."""
        raise NotImplementedError

    def apply(self, region: Region, drawn: Mapping[str, Tensor]) -> tuple[ViewBatch, ...]:
        raise NotImplementedError


class Network(nn.Module):
    """Base of all networks. ``forward`` is the one entry, since DDP, FSDP2, compile and checkpointing hook it."""

    widths: tuple[int, ...]
    geometry: tuple[LevelGeometry, ...]
    hides: frozenset[Hide] = frozenset({"none"})
    dense_width: int

    def forward(
        self, x: Tensor, hidden: Tensor | None = None, hide: Hide = "none", want: frozenset[Want] = frozenset({"pooled"})
    ) -> Features:
        raise NotImplementedError

    def encoder_keys(self) -> tuple[str, ...]:
        """Prefixes of the state-dict keys that belong to the encoder (the rest is decoder)."""
        raise NotImplementedError


class Objective(nn.Module):
    """Base of all objectives. ``forward`` is pure: it reads features, writes no buffer, calls no network.

    Without ``couples`` the loss is one mean over ``count`` items, so it may be taken of parts of a batch. With it (a contrast, a batch
    norm) ``forward`` sees all that a rank has, and gathers the rest."""

    couples = False

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__()
        self.config = config
        self.context = context

    def asks(self) -> tuple[Ask, ...]:
        raise NotImplementedError

    def forward(self, step: Step) -> Loss:
        raise NotImplementedError

    def count(self, step: Step) -> Tensor:
        """0-d: items, or their weights, that ``forward`` takes the mean of. It reads no features; by default, crops count."""
        return torch.ones_like(step.ids.sample).sum()

    def restored(self, step: Step) -> tuple[str, Tensor] | None:
        """For pictures: the view instance and what the objective gives back of it, shaped as its target; None if it restores nothing.

        Whoever restores says in ``forward`` how much ``contrast`` the answer has, for the alarm on one grey."""
        return None

    def health(self, step: Step) -> Mapping[str, Tensor]:
        """What only this objective knows of its health: 0-d figures by name, and codes, without gradients. Of the student it has what
        ``update`` has, and figures become means over the ranks.

        ``teacher_codes`` and ``student_codes`` are (N, K) probabilities over K prototypes: watchers make entropies and the use of
        prototypes of them, and raise an alarm where they collapse.
        """
        return {}

    def update(self, step: Step) -> None:
        """Once after an accepted optimiser step, without gradients: queue, centre, bank. Of the student it has pooled and tokens only."""

    def epoch(self, epoch: int, seed: int) -> None:
        """At an epoch's beginning."""

    def momentum(self, progress: float) -> float | None:
        """Of the encoder's teacher, or None if this objective needs no teacher."""
        return None

    def pairs(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """(own, averaged) heads: the second follows the first with the teacher's momentum."""
        return ()


def to_device(value: Any, device: torch.device | str) -> Any:
    """Every tensor of a Region, ViewBatch, ... on a device; pinned memory is copied asynchronously."""
    return mapped(lambda tensor: tensor.to(device, non_blocking=True), value)
