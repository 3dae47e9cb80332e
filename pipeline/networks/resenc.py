"""A residual-encoder U-Net of nnU-Net's shape (Isensee et al. 2024, "nnU-Net revisited": ResEnc-L; residual blocks of He et al. 2016)."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import plugins
from pipeline.networks._layers import Block, Convolution, MaskToken, Norm, Transposed
from pipeline.networks._pyramid import Pyramid
from pipeline.step import Context, LevelGeometry


class Resenc(Pyramid):
    """A stem, levels of residual blocks of which the first leads down by a stride of 2, and a decoder of one convolution a level.

    The default is the shape that nnU-Net plans as ResEnc-L: 102,335,105 weights with one input channel, without the heads of its deep
    supervision. Where nnU-Net averages pairs of voxels in the shortcut that leads down, the default here takes every second one, as the
    strided convolution beside it does, so that voxel j of level l lies at input index 2^l j; ``shortcut: average`` is nnU-Net's own.
    """

    class Config(plugins.Config):
        """Settings of the residual-encoder U-Net."""

        channels: int | None = Field(None, ge=1, description="Channels of the input; default: those of the study.")
        widths: tuple[int, ...] = Field(
            (32, 64, 128, 256, 320, 320), min_length=1, description="Feature channels of each level, fine to coarse."
        )
        blocks: tuple[int, ...] = Field((1, 3, 4, 6, 6, 6), min_length=1, description="Residual blocks of each encoder level.")
        decoder_blocks: int = Field(1, ge=1, description="Convolutions of each decoder level.")
        shortcut: Literal["strided", "average"] = Field(
            "strided",
            description="How a shortcut leads down: every second voxel, or the mean of each pair along each axis (nnU-Net), by which "
            "features lie up to half a voxel further along every axis. The weights are the same.",
        )
        norm_eps: float = Field(1e-5, gt=0, description="Added to the variance of the instance norm.")
        slope: float = Field(0.01, ge=0, lt=1, description="Of leaky ReLU below zero.")

        @model_validator(mode="after")
        def _a_number_for_each_level(self) -> "Resenc.Config":
            if len(self.blocks) != len(self.widths):
                raise ValueError(f"blocks: {len(self.blocks)} numbers for {len(self.widths)} widths; give one for each level")
            return self

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__()
        if config.channels not in (None, context.channels):
            raise ValueError(
                f"resenc.channels: is {config.channels}, but the scans have {context.channels}; leave it out or mend `channels`"
            )
        self.config, self.widths, self.dense_width = config, config.widths, config.widths[0]
        drift = 0.25 if config.shortcut == "average" else 0.0  # between the two paths into a level, which lie half a voxel apart
        self.geometry = tuple(LevelGeometry((2**level,) * 3, (drift * (2**level - 1),) * 3) for level in range(len(self.widths)))
        self.mask_token = MaskToken(context.channels)
        self.stem = Block(context.channels, self.widths[0], Norm(self.widths[0], self.widths[0], config.norm_eps), config.slope)
        self.encoder = nn.ModuleList(self._stage(level) for level in range(len(self.widths)))
        self.decoder = nn.ModuleList(UpLevel(self.widths[level + 1], self.widths[level], config) for level in range(len(self.widths) - 1))

    def encoder_keys(self) -> tuple[str, ...]:
        return ("stem.", "encoder.")

    def _stage(self, level: int) -> nn.Sequential:
        width, before = self.widths[level], self.widths[max(0, level - 1)]
        first = Residual(before, width, self.config, stride=1 if level == 0 else 2)
        return nn.Sequential(first, *(Residual(width, width, self.config) for _ in range(self.config.blocks[level] - 1)))

    def _begin(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def _decode(self, levels: list[Tensor]) -> Tensor:
        x = levels[-1]
        for up, fine in zip(reversed(self.decoder), reversed(levels[:-1]), strict=True):
            x = up(x, fine)
        return x


class Residual(nn.Module):
    """leaky ReLU(norm(conv(leaky ReLU(norm(conv(x))))) + shortcut(x)); a shortcut to another width holds a convolution and a norm."""

    def __init__(self, before: int, width: int, config: Resenc.Config, stride: int = 1) -> None:
        super().__init__()
        self.first = Block(before, width, Norm(width, width, config.norm_eps), config.slope, stride)
        self.conv = Convolution(width, width, 3, 1, 1, bias=False)
        self.norm = Norm(width, width, config.norm_eps)
        self.widen = None
        if before != width:
            self.widen = nn.Sequential(Convolution(before, width, 1, bias=False), Norm(width, width, config.norm_eps))
        self.stride, self.averaged, self.slope = stride, config.shortcut == "average", config.slope

    def forward(self, x: Tensor) -> Tensor:
        made = self.norm(self.conv(self.first(x)))
        if self.stride > 1 and self.averaged:
            x = F.avg_pool3d(x, self.stride, ceil_mode=True, count_include_pad=False)
        elif self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return F.leaky_relu(made + (x if self.widen is None else self.widen(x)), self.slope, inplace=True)


class UpLevel(nn.Module):
    """One decoder level: a transposed convolution of size and stride 2, the encoder's features beside it, convolutions."""

    def __init__(self, coarse: int, width: int, config: Resenc.Config) -> None:
        super().__init__()
        self.up = Transposed(coarse, width, 2, 2)
        blocks = [
            Block(width * (1 if later else 2), width, Norm(width, width, config.norm_eps), config.slope)
            for later in range(config.decoder_blocks)
        ]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor, fine: Tensor) -> Tensor:
        """Where a size is odd the last coarse voxel covers one fine voxel, not two."""
        depth, height, width = fine.shape[2:]
        x = self.up(x)[:, :, :depth, :height, :width]
        return self.blocks(torch.cat([x, fine], 1))
