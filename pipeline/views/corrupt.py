"""What a restoration sees: a crop with its intensities bent, its voxels shuffled, parts painted over, its shape deformed.

Zhou et al. 2019 (Models Genesis): the transforms, and their chained probabilities as defaults; Haghighi et al. 2021 (TransVW): one of four.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline import plugins
from pipeline.keys import fold, on_host, uniform
from pipeline.shapes import MaskBatch, VoxelsBatch
from pipeline.step import Context, Region, ViewBatch
from pipeline.views import _elastic
from pipeline.views._boxes import Box, box_mask, boxes_of, draw_boxes
from pipeline.views._crop import Bounds, crop_affine, crop_valid, low_of, normalised, share, vector
from pipeline.views._curves import bend, curves
from pipeline.views._noise import fill_with_noise, uniform_noise
from pipeline.views._shuffle import Shuffle
from pipeline.views._walk import BatchedView, alone, copied, room, slabs, where_chosen

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
FOUR = ("non_linear", "shuffle", "in_painting", "out_painting")
SAME = 1e-6


class Corrupt(BatchedView):
    """The corrupted crop, and as target the crop before: voxels = out- or in-painting(non-linear(shuffle(elastic(crop)))).

    ``altered``: voxels that differ from the target by more than 1e-6. ``answers["visible"]`` (B,): share of voxels that are inside the
    volume and not painted over. With elastic deformation ``warp_mm`` (B, 3, D, H, W) says where voxels come from: voxel v shows the
    place ``affine @ v + warp_mm[v]``; the target too if ``elastic_target``. Without any it is None.
    """

    class Config(plugins.Config):
        non_linear: Probability = Field(0.9, description="Probability of a non-linear intensity map.")
        shuffle: Probability = Field(0.5, description="Probability of local shuffling.")
        in_painting: Probability = Field(0.18, description="Probability of painting boxes over; never together with out_painting.")
        out_painting: Probability = Field(0.72, description="Probability of painting all but some windows over.")
        one_of: bool = Field(False, description="Exactly one of these four; their probabilities must then sum to 1 (TransVW: 0.25 each).")
        elastic: Probability = Field(0.0, description="Probability of an elastic deformation before all others (TransVW: 1).")
        invert: Probability = Field(0.5, description="Share of the intensity maps that fall instead of rise.")
        shuffle_share: Share = Field(0.8, description="Share of the voxels that lie in shuffled boxes.")
        shuffle_side: Share = Field(0.1, description="Largest side of a shuffled box as a share of the crop's; at least 2 voxels.")
        in_painting_boxes: int = Field(5, ge=1, description="Most boxes painted over.")
        in_painting_side: tuple[Share, Share] = Field((0.167, 0.334), description="Smallest and largest side as a share of the crop's.")
        out_painting_windows: int = Field(5, ge=1, description="Most windows kept; the first one always is.")
        out_painting_side: tuple[Share, Share] = Field((0.43, 0.58), description="Smallest and largest side as a share of the crop's.")
        one_more: Probability = Field(0.95, description="Probability of each further box or window.")
        fill: Literal["noise", "constant"] = Field("noise", description="What is painted: uniform noise, or one random value a channel.")
        elastic_target: bool = Field(True, description="Deform the target too (an augmentation); else the deformation is to be undone.")
        elastic_mean_mm: float = Field(2.0, gt=0, description="Mean length of the displacement.")
        elastic_smooth_mm: float = Field(8.0, gt=0, description="Deviation of the Gaussian that smooths the displacement.")
        elastic_axes: Literal[2, 3] = Field(3, description="2 displaces along Right and Anterior only (TransVW), 3 along Superior too.")
        elastic_margin_vox: int = Field(6, ge=1, description="Largest displacement along an axis; as much is read around the crop.")

        @model_validator(mode="after")
        def _probabilities_fit(self) -> "Corrupt.Config":
            total = sum(getattr(self, name) for name in FOUR)
            if self.one_of and abs(total - 1.0) > 1e-6:
                raise ValueError(f"one_of: {', '.join(FOUR)} must sum to 1, not {total:g}; set each to 0.25, say")
            if self.in_painting + self.out_painting > 1.0 + 1e-6:
                raise ValueError("in_painting, out_painting: exclude each other, so their sum must be at most 1")
            for name in ("in_painting_side", "out_painting_side"):
                if getattr(self, name)[0] > getattr(self, name)[1]:
                    raise ValueError(f"{name}: the smallest side must not exceed the largest")
            return self

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        moved = config.elastic_axes if config.elastic > 0 else 0
        self.margin_vox = tuple(config.elastic_margin_vox if axis < moved else 0 for axis in range(3))
        self.shuffle = Shuffle(context.size_vox, config.shuffle_side, config.shuffle_share)

    def extent_vox(self) -> tuple[int, int, int]:
        return tuple(n + 2 * m for n, m in zip(self.context.size_vox, self.margin_vox, strict=True))

    def draw(self, keys: Tensor, region: Region) -> Mapping[str, Tensor]:
        config, size, channels = self.config, self.context.size_vox, region.voxels.shape[1]
        drawn = self._choices(keys)
        control = uniform(fold(keys, "control points"), channels, 4)
        drawn |= {"control": control, "invert": uniform(fold(keys, "invert"), channels) < config.invert}
        drawn["boxes"] = fold(keys, "shuffle")
        over = draw_boxes(fold(keys, "in-painting"), size, config.in_painting_side, config.in_painting_boxes, config.one_more, 0)
        kept = draw_boxes(fold(keys, "out-painting"), size, config.out_painting_side, config.out_painting_windows, config.one_more, 1)
        drawn |= {"over_low": over["low"], "over_high": over["high"], "kept_low": kept["low"], "kept_high": kept["high"]}
        drawn["fill"] = uniform(fold(keys, "constant"), channels) if config.fill == "constant" else fold(keys, "noise")
        if config.elastic > 0:
            drawn["knots"] = _elastic.draw_knots(fold(keys, "knots"), size, config.elastic_axes)
        return drawn

    def at_once(self, region: Region, drawn: Mapping[str, Tensor]) -> tuple[ViewBatch, ...]:
        target, shown, valid, warp_mm = self._deformed(region, drawn)
        voxels = where_chosen(drawn["shuffle"], shown, drawn, lambda v, d: self.shuffle.apply(v, **self.shuffle.draw(d["boxes"])))
        voxels = where_chosen(drawn["non_linear"], voxels, drawn, lambda v, d: bend(v, curves(d["control"], d["invert"])))
        painted = self._painted(drawn)
        voxels = where_chosen(drawn["in_painting"] | drawn["out_painting"], voxels, {**drawn, "painted": painted}, self._filled)
        view = ViewBatch(
            voxels=copied(voxels) if voxels is target else voxels,
            affine=crop_affine(region),
            valid=valid,
            target=target,
            altered=_differs(voxels, target),
            warp_mm=warp_mm,
            answers={"visible": share(valid & ~painted)},
        )
        return (view,)

    def _choices(self, keys: Tensor) -> dict[str, Tensor]:
        """Which transforms each sample gets: (B,) bool each."""
        config = self.config
        chosen = {"elastic": uniform(fold(keys, "elastic"), 1)[:, 0] < config.elastic}
        if config.one_of:
            first, draw = 0.0, uniform(fold(keys, "one of"), 1)[:, 0]
            for name in FOUR:
                last = first + getattr(config, name)
                chosen[name] = (draw >= first) & (draw < last)
                first = last
            return chosen
        for name in ("non_linear", "shuffle"):
            chosen[name] = uniform(fold(keys, name), 1)[:, 0] < getattr(config, name)
        paint = uniform(fold(keys, "paint"), 1)[:, 0]
        chosen["in_painting"] = paint < config.in_painting
        chosen["out_painting"] = (paint >= config.in_painting) & (paint < config.in_painting + config.out_painting)
        return chosen

    def _deformed(self, region: Region, drawn: Mapping[str, Tensor]) -> tuple[VoxelsBatch, VoxelsBatch, MaskBatch, Tensor | None]:
        """Target, what is corrupted further, valid, warp_mm."""
        config, chosen = self.config, drawn["elastic"]
        wide = normalised(region, self.margin_vox)
        if config.elastic == 0:
            return wide, wide, crop_valid(region), None
        size = self.context.size_vox
        still = wide[(..., *(slice(m, m + n) for m, n in zip(self.margin_vox, size, strict=True)))]
        if alone(wide) and not bool(chosen):
            crop = copied(still)
            return crop, crop, crop_valid(region), room(wide, 1, 3, *size).zero_()
        knots = drawn["knots"] * chosen[:, None, None, None, None]
        inside = region.inside - vector(low_of(region, self.margin_vox), region.inside)[:, None] if config.elastic_target else None
        if inside is not None and on_host(inside) and self._hold(inside):
            inside = None
        shown, warp_mm, valid = _elastic.deformed(
            wide, knots, region.affine, size, config.elastic_mean_mm, config.elastic_smooth_mm, self.margin_vox, inside
        )
        if config.elastic_target:
            return shown, shown, valid, warp_mm
        return copied(still), shown, crop_valid(region), warp_mm

    def _painted(self, drawn: Mapping[str, Tensor]) -> MaskBatch:
        """(B, D, H, W) voxels painted over."""
        size, outside, inside = self.context.size_vox, drawn["out_painting"], drawn["in_painting"]
        if alone(outside):
            if bool(outside):
                return ~box_mask(drawn["kept_low"], drawn["kept_high"], size)
            return box_mask(drawn["over_low"], drawn["over_high"] * inside, size)
        # What a sample does not get has no boxes: a CPU need not paint them.
        outside, inside = outside[:, None, None], inside[:, None, None]
        kept = box_mask(drawn["kept_low"], drawn["kept_high"] * outside, size)
        return (outside[..., None] & ~kept) | box_mask(drawn["over_low"], drawn["over_high"] * inside, size)

    def _filled(self, voxels: VoxelsBatch, drawn: Mapping[str, Tensor]) -> VoxelsBatch:
        if alone(voxels):
            return self._filled_one(voxels, drawn)
        fill = drawn["fill"]
        new = fill[:, :, None, None, None] if self.config.fill == "constant" else uniform_noise(fill, tuple(voxels.shape[1:]))
        return torch.where(drawn["painted"][:, None], new, voxels)

    def _filled_one(self, voxels: VoxelsBatch, drawn: Mapping[str, Tensor]) -> VoxelsBatch:
        """The same of one sample on a CPU, box by box: noise only where it is seen."""
        made = room(voxels, *voxels.shape)
        if bool(drawn["out_painting"]):
            self._fill(made, drawn["fill"], ((0, 0, 0), self.context.size_vox))
            for low, high in boxes_of(drawn["kept_low"][0], drawn["kept_high"][0]):
                kept = (..., *map(slice, low, high))
                made[kept] = voxels[kept]
            return made
        made.copy_(voxels)
        for box in boxes_of(drawn["over_low"][0], drawn["over_high"][0]):
            self._fill(made, drawn["fill"], box)
        return made

    def _fill(self, made: VoxelsBatch, fill: Tensor, box: Box) -> None:
        if self.config.fill == "constant":
            made[(..., *map(slice, *box))] = fill[:, :, None, None, None]
        else:
            fill_with_noise(made[0], fill, *box)

    def _hold(self, inside: Bounds) -> bool:
        """Whether all that is read of every sample lies inside its volume."""
        return bool((inside[..., 0] <= 0).all() and (inside[..., 1] >= torch.tensor(self.extent_vox())).all())


def _differs(voxels: VoxelsBatch, target: VoxelsBatch) -> MaskBatch:
    """Where any channel differs."""
    found = room(voxels, len(voxels), *voxels.shape[2:], dtype=torch.bool)
    for part in slabs(voxels, voxels.shape[2:]):
        change = room(voxels, *voxels[:, :, part].shape)
        torch.sub(voxels[:, :, part], target[:, :, part], out=change).abs_()
        if change.shape[1] == 1:
            torch.gt(change[:, 0], SAME, out=found[:, part])
        else:
            found[:, part] = (change > SAME).any(1)
    return found
