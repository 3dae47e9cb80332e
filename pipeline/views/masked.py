"""Random blocks hidden, the clean crop as target.

He et al. 2022, "Masked autoencoders are scalable vision learners", with voxel blocks; Xie et al. 2022 (SimMIM) for ``token``, Tian et al.
2023 (SparK) for ``sparse``. A network without tokens sees zeros where ``hide`` is ``none``.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from pipeline import plugins
from pipeline.keys import bits, fold
from pipeline.shapes import MaskBatch
from pipeline.step import Context, Hide, Region, ViewBatch
from pipeline.views._crop import crop_affine, crop_valid, normalised, share
from pipeline.views._walk import BatchedView

Side = Annotated[int, Field(ge=1)]


class Masked(BatchedView):
    """The centred crop with a fixed number of random blocks hidden.

    ``altered`` are the hidden voxels, ``answers["visible"]`` (B,) the share of voxels that are inside the volume and not hidden.
    """

    class Config(plugins.Config):
        block_vox: tuple[Side, Side, Side] = Field((8, 8, 8), description="Sides of a block; the last ones may reach past the crop.")
        ratio: float = Field(0.6, ge=0, le=1, description="Share of the blocks that is hidden, rounded to whole blocks.")
        hide: Hide = Field("none", description="none: hidden voxels become 0; else they are left to the network, which must know the mode.")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.blocks = tuple(math.ceil(n / b) for n, b in zip(context.size_vox, config.block_vox, strict=True))
        self.num_hidden = round(config.ratio * math.prod(self.blocks))

    def draw(self, keys: Tensor, region: Region) -> Mapping[str, Tensor]:
        """hidden_blocks (B, blocks) bool: those of the lowest random numbers."""
        rank = bits(fold(keys, "blocks"), math.prod(self.blocks)).argsort(1).argsort(1)
        return {"hidden_blocks": rank < self.num_hidden}

    def at_once(self, region: Region, drawn: Mapping[str, Tensor]) -> tuple[ViewBatch, ...]:
        hidden = self._voxels_of(drawn["hidden_blocks"])
        target, valid = normalised(region), crop_valid(region)
        filled = self.config.hide == "none"
        view = ViewBatch(
            voxels=target.masked_fill(hidden[:, None], 0.0) if filled else target.clone(),
            affine=crop_affine(region),
            valid=valid,
            target=target,
            altered=hidden,
            hidden=None if filled else hidden,
            hide=self.config.hide,
            answers={"visible": share(valid & ~hidden)},
        )
        return (view,)

    def _voxels_of(self, blocks: Tensor) -> MaskBatch:
        mask = blocks.reshape(-1, *self.blocks)
        for axis, (size, side) in enumerate(zip(self.context.size_vox, self.config.block_vox, strict=True)):
            owner = torch.arange(size, device=blocks.device) // side
            mask = mask.index_select(axis + 1, owner)
        return mask
