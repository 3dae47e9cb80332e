"""Independently augmented crops of one region, for contrast.

Chen et al. 2020 (SimCLR) in 3D, with the intensity changes of nnU-Net's augmentation (Isensee et al. 2021) and no flips: a flip
moves a structure to the other side of the body.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline import plugins
from pipeline.keys import fold, integers, uniform
from pipeline.shapes import VoxelsBatch
from pipeline.step import Region, ViewBatch
from pipeline.views._axes import axis_matrix, mixed
from pipeline.views._crop import affine_at, along, inside_places, low_of, normalised, share, vector
from pipeline.views._noise import normal_noise
from pipeline.views._walk import BatchedView, where_chosen

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
_BLUR_MARGIN_VOX = 2


class Augment(BatchedView):
    """``num_views`` crops, each with its own shift, scale and intensities, and an affine that says where it lies.

    ``answers``: ``visible`` (B,) share inside the volume; ``mirrored`` (B,) bool where Left and Right are swapped (the affine says so too).
    """

    class Config(plugins.Config):
        num_views: int = Field(2, ge=1, description="Crops of each region.")
        max_shift_vox: int = Field(4, ge=0, description="Largest shift off the centre along each axis; two crops overlap accordingly.")
        scale: float = Field(0.1, ge=0, lt=1, description="Largest relative change of the voxel size, log-uniform, equal for all axes.")
        flip: bool = Field(False, description="Swap Left and Right in half of the crops.")
        gamma: Probability = Field(0.5, description="Probability of x ** gamma.")
        gamma_range: tuple[Positive, Positive] = Field((0.7, 1.5), description="Log-uniform.")
        contrast: Probability = Field(0.5, description="Probability of a contrast change about the crop's mean.")
        contrast_range: tuple[Positive, Positive] = Field((0.75, 1.33), description="Log-uniform.")
        brightness: Probability = Field(0.5, description="Probability of a brightness change.")
        brightness_max: float = Field(0.1, ge=0, le=1, description="Largest change of brightness; the window is 1.")
        noise: Probability = Field(0.5, description="Probability of Gaussian noise.")
        noise_max: float = Field(0.05, ge=0, description="Largest standard deviation of the noise; the window is 1.")
        blur: Probability = Field(0.3, description="Probability of a Gaussian blur.")
        blur_range_vox: tuple[Positive, Positive] = Field((0.5, 1.0), description="Standard deviation of the blur.")
        low_resolution: Probability = Field(0.0, description="Probability of sampling at a larger spacing first.")
        low_resolution_max: float = Field(2.0, ge=1, description="Largest factor of that spacing; log-uniform from 1.")

        @model_validator(mode="after")
        def _ranges_rise(self) -> "Augment.Config":
            for name in ("gamma_range", "contrast_range", "blur_range_vox"):
                if getattr(self, name)[0] > getattr(self, name)[1]:
                    raise ValueError(f"{name}: the lower end must not exceed the upper one")
            return self

    def extent_vox(self) -> tuple[int, int, int]:
        return tuple(n + 2 * m for n, m in zip(self.context.size_vox, self._margin_vox(), strict=True))

    def draw(self, keys: Tensor, region: Region) -> Mapping[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        for number in range(self.config.num_views):
            drawn |= {f"{name}_{number}": value for name, value in self._draw_one(fold(keys, f"crop {number}")).items()}
        return drawn

    def at_once(self, region: Region, drawn: Mapping[str, Tensor]) -> tuple[ViewBatch, ...]:
        wide = normalised(region, self._margin_vox())
        views = range(self.config.num_views)
        return tuple(self._crop(region, wide, {name: drawn[f"{name}_{number}"] for name in _NAMES}) for number in views)

    def _draw_one(self, keys: Tensor) -> dict[str, Tensor]:
        config = self.config

        def either(name: str, probability: float, low: float, high: float, off: float, log: bool = True) -> Tensor:
            """(B,): a value from the range with a probability, else ``off``."""
            chosen, part = uniform(fold(keys, name), 2).unbind(1)
            value = low * (high / low) ** part if log else low + (high - low) * part
            return torch.where(chosen < probability, value, off)

        shift = integers(fold(keys, "shift"), -config.max_shift_vox, config.max_shift_vox + 1, 3).to(torch.float32)
        return {
            "shift": shift,
            "scale": either("scale", 1.0, 1.0 / (1.0 + config.scale), 1.0 + config.scale, 1.0),
            "mirrored": uniform(fold(keys, "flip"), 1)[:, 0] < 0.5 * config.flip,
            "blur": either("blur", config.blur, *config.blur_range_vox, 0.0),
            "factor": either("low resolution", config.low_resolution, 1.0, config.low_resolution_max, 1.0),
            "contrast": either("contrast", config.contrast, *config.contrast_range, 1.0),
            "brightness": either("brightness", config.brightness, -config.brightness_max, config.brightness_max, 0.0, log=False),
            "gamma": either("gamma", config.gamma, *config.gamma_range, 1.0),
            "deviation": either("noise", config.noise, 0.0, config.noise_max, 0.0, log=False),
            "noise": fold(keys, "noise of voxels"),
        }

    def _crop(self, region: Region, wide: VoxelsBatch, one: Mapping[str, Tensor]) -> ViewBatch:
        margin, low = self._margin_vox(), low_of(region, self._margin_vox())
        step = one["scale"][:, None].repeat(1, 3)
        step[:, 0] = torch.where(one["mirrored"], -step[:, 0], step[:, 0])
        middle = vector([(n - 1) / 2 for n in region.size_vox], step)
        first = vector(margin, step) + middle + one["shift"] - step * middle
        axes = range(3)
        matrices = [axis_matrix(first[:, a], step[:, a], one["blur"], one["factor"], region.size_vox[a], wide.shape[a + 2]) for a in axes]
        start = first + vector(low, step)
        places = [along(start[:, a, None] + step[:, a, None] * torch.arange(region.size_vox[a], device=wide.device), a) for a in axes]
        valid = inside_places(region.inside, places)
        return ViewBatch(
            voxels=_intensities(mixed(wide, matrices), one),
            affine=affine_at(region, start.to(torch.float64), step.to(torch.float64)),
            valid=valid,
            answers={"visible": share(valid), "mirrored": one["mirrored"]},
        )

    def _margin_vox(self) -> tuple[int, int, int]:
        grown = [math.ceil((n - 1) / 2 * self.config.scale) for n in self.context.size_vox]
        blurred = _BLUR_MARGIN_VOX if self.config.blur > 0 else 0
        return tuple(self.config.max_shift_vox + more + blurred for more in grown)


_NAMES = ("shift", "scale", "mirrored", "blur", "factor", "contrast", "brightness", "gamma", "deviation", "noise")


def _intensities(voxels: VoxelsBatch, one: Mapping[str, Tensor]) -> VoxelsBatch:
    """Contrast and brightness, then gamma, then noise, in [0, 1]."""
    contrast, brightness = _of_each(one["contrast"]), _of_each(one["brightness"])
    mean = voxels.mean((2, 3, 4), keepdim=True)
    voxels = (voxels * contrast).add_(mean * (1.0 - contrast) + brightness).clamp_(0.0, 1.0)
    voxels = where_chosen(one["gamma"] != 1.0, voxels, one, lambda v, d: v ** _of_each(d["gamma"]))
    return where_chosen(one["deviation"] > 0, voxels, one, _noisy).clamp_(0.0, 1.0)


def _noisy(voxels: VoxelsBatch, one: Mapping[str, Tensor]) -> VoxelsBatch:
    return torch.addcmul(voxels, normal_noise(one["noise"], tuple(voxels.shape[1:])), _of_each(one["deviation"]))


def _of_each(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1, 1)."""
    return values[:, None, None, None, None]
