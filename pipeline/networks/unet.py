"""A 3D U-Net (Ronneberger et al. 2015; Çiçek et al. 2016) whose features have a place: strided convolutions instead of pooling."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from pipeline import plugins
from pipeline.networks._layers import Block, MaskToken, Norm, Transposed
from pipeline.networks._pyramid import Pyramid
from pipeline.step import Context, LevelGeometry


class Unet(Pyramid):
    """Levels of 3 x 3 x 3 convolutions; a stride of 2 leads down, a transposed convolution leads up.

    A convolution of size 3, stride 2 and padding 1 is centred on input voxel 2j, so voxel j of level l lies at input index
    2^l j, whatever the size; its transpose leads back to the same voxels, so odd sizes need no padding.
    """

    class Config(plugins.Config):
        """Settings of the U-Net."""

        channels: int | None = Field(None, ge=1, description="Channels of the input; default: those of the study.")
        widths: tuple[int, ...] = Field((16, 32, 64, 128), min_length=1, description="Feature channels of each level, fine to coarse.")
        blocks: int = Field(2, ge=1, description="Convolutions of each encoder level; the first of a level leads down to it.")
        decoder_blocks: int = Field(1, ge=1, description="Convolutions of each decoder level.")
        skips: bool = Field(
            True,
            description="Whether the encoder's finer levels are added in the decoder. Without, all must pass the coarsest level; "
            "the weights have the same names and shapes either way.",
        )
        norm: Literal["instance", "group"] = Field(
            "instance", description="Statistics over a sample and one channel (instance) or `group_width` channels (group)."
        )
        group_width: int = Field(8, ge=1, description="Channels of a group; of no effect with norm: instance.")
        norm_eps: float = Field(1e-5, gt=0, description="Added to the variance.")
        slope: float = Field(0.01, ge=0, lt=1, description="Of leaky ReLU below zero.")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__()
        if config.channels not in (None, context.channels):
            raise ValueError(f"unet.channels: is {config.channels}, but the scans have {context.channels}; leave it out or mend `channels`")
        self.config, self.skips, self.widths = config, config.skips, config.widths
        self.dense_width = self.widths[0]
        self.geometry = tuple(LevelGeometry((2**level,) * 3, (0.0,) * 3) for level in range(len(self.widths)))
        self.mask_token = MaskToken(context.channels)
        self.encoder = nn.ModuleList(self._stage(level, context.channels) for level in range(len(self.widths)))
        self.decoder = nn.ModuleList(UpLevel(self.widths[level + 1], self.widths[level], config) for level in range(len(self.widths) - 1))

    def encoder_keys(self) -> tuple[str, ...]:
        return ("encoder.",)

    def _stage(self, level: int, channels: int) -> nn.Sequential:
        widths, before = self.widths, channels if level == 0 else self.widths[level - 1]
        first = make_block(before, widths[level], self.config, stride=1 if level == 0 else 2)
        return nn.Sequential(first, *(make_block(widths[level], widths[level], self.config) for _ in range(self.config.blocks - 1)))

    def _decode(self, levels: list[Tensor]) -> Tensor:
        x = levels[-1]
        for up, fine in zip(reversed(self.decoder), reversed(levels[:-1]), strict=True):
            x = up(x, fine.shape[2:], fine if self.skips else None)
        return x


class UpLevel(nn.Module):
    """One decoder level: up to the finer grid, where the encoder's features are added.

    Added, not concatenated (as in SegResNet, Myronenko 2018): a fifth faster, as good on few labels, and the same weights without skips.
    """

    def __init__(self, coarse: int, width: int, config: "Unet.Config") -> None:
        super().__init__()
        self.up = Transposed(coarse, width, 3, 2, 1, bias=False)
        self.blocks = nn.Sequential(*(make_block(width, width, config) for _ in range(config.decoder_blocks)))

    def forward(self, x: Tensor, shape: Sequence[int], skip: Tensor | None) -> Tensor:
        x = self.up(x, output_size=list(shape))
        return self.blocks(x if skip is None else x + skip)


def make_block(before: int, width: int, config: "Unet.Config", stride: int = 1) -> Block:
    return Block(before, width, make_norm(width, config), config.slope, stride)


def make_norm(width: int, config: "Unet.Config") -> Norm:
    """Instance norm is written as a group norm of one channel a group: the same figures, faster on CPU."""
    size = 1 if config.norm == "instance" else min(config.group_width, width)
    if width % size:
        raise ValueError(f"unet.group_width: {size} does not divide a width of {width}; choose a divisor of every width")
    return Norm(width // size, width, eps=config.norm_eps)
