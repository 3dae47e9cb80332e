"""The crop as it is."""

from collections.abc import Mapping

from torch import Tensor

from pipeline import plugins
from pipeline.step import Region, ViewBatch
from pipeline.views._crop import crop_affine, crop_valid, normalised, share
from pipeline.views._walk import BatchedView


class Clean(BatchedView):
    """The centred crop, normalised. ``answers["visible"]`` (B,) is the share of it that lies inside the volume."""

    class Config(plugins.Config):
        """No settings."""

    def draw(self, keys: Tensor, region: Region) -> Mapping[str, Tensor]:
        return {}

    def at_once(self, region: Region, drawn: Mapping[str, Tensor]) -> tuple[ViewBatch, ...]:
        valid = crop_valid(region)
        return (ViewBatch(normalised(region), crop_affine(region), valid, answers={"visible": share(valid)}),)
