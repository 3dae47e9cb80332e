"""One code for both machines: the whole batch at once on a GPU, one sample at a time on a CPU.

On a CPU temporaries of a whole batch leave the caches and are faulted in anew each time, and a transform that a sample did not draw
can be skipped; on a GPU a loop over samples and a look at a drawn value both stall the device.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.shapes import VoxelsBatch
from pipeline.step import Region, View, ViewBatch


class BatchedView(View):
    """A view whose ``at_once`` is batched and whose samples do not mix."""

    def at_once(self, region: Region, drawn: Mapping[str, Tensor]) -> tuple[ViewBatch, ...]:
        """Views of the whole batch: static shapes, no look at a drawn value unless the batch is one sample on a CPU."""
        raise NotImplementedError

    def apply(self, region: Region, drawn: Mapping[str, Tensor]) -> tuple[ViewBatch, ...]:
        count = len(region.voxels)
        if region.voxels.device.type != "cpu" or count == 1:
            return self.at_once(region, drawn)
        walked = [self.at_once(_sample(region, b), {name: value[b : b + 1] for name, value in drawn.items()}) for b in range(count)]
        return tuple(_joined(parts) for parts in zip(*walked, strict=True))


def where_chosen(chosen: Tensor, voxels: VoxelsBatch, change: Callable[[VoxelsBatch], VoxelsBatch]) -> VoxelsBatch:
    """``change(voxels)`` for the samples that ``chosen`` (B,) bool names, ``voxels`` for the others."""
    if alone(voxels):
        return change(voxels) if bool(chosen) else voxels
    return torch.where(chosen[:, None, None, None, None], change(voxels), voxels)


def alone(tensor: Tensor) -> bool:
    """Whether this is one sample on a CPU, so that values may be looked at."""
    return tensor.device.type == "cpu" and len(tensor) == 1


def take(values: Tensor, index: Tensor) -> Tensor:
    """(B, C, N) values at (B, M) int32 indices -> (B, C, M)."""
    if len(values) == 1:
        return values.index_select(2, index[0])
    return torch.gather(values, 2, index.to(torch.int64)[:, None].expand(-1, values.shape[1], -1))


def _sample(region: Region, b: int) -> Region:
    one = slice(b, b + 1)
    return replace(region, voxels=region.voxels[one], window=region.window[one], affine=region.affine[one], inside=region.inside[one])


def _joined(parts: tuple[ViewBatch, ...]) -> ViewBatch:
    first = parts[0]
    tensors = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("voxels", "affine", "valid", "target", "altered", "hidden", "warp_mm")
        if getattr(first, name) is not None
    }
    answers = {name: torch.cat([part.answers[name] for part in parts]) for name in first.answers}
    return replace(first, **tensors, answers=answers)
