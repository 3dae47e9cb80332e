"""One code for both machines: the whole batch at once on a GPU, one sample at a time on a CPU, or several small ones.

On a CPU temporaries of a whole batch leave the caches and are faulted in anew each time, and a transform that a sample did not draw
can be skipped; on a GPU a loop over samples and a look at a drawn value both stall the device. Of small samples the calls cost more than
their voxels, so they go together. Which way a sample goes depends on its size alone, so that its bits do not depend on the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.buffers import Buffers
from pipeline.keys import on_host
from pipeline.shapes import VoxelsBatch
from pipeline.step import Region, View, ViewBatch

_TENSORS = ("voxels", "affine", "valid", "target", "altered", "hidden", "warp_mm")

SLAB_VOX = 1 << 17
SMALL_VOX, GROUP_VOX = 1 << 15, 1 << 20  # of a sample that goes with others, and of those together
_MEMORY = Buffers()


class BatchedView(View):
    """A view whose ``at_once`` is batched and whose samples do not mix."""

    def at_once(self, region: Region, drawn: Mapping[str, Tensor]) -> tuple[ViewBatch, ...]:
        """Views of the whole batch: static shapes, no look at a drawn value unless the batch is one sample on a CPU."""
        raise NotImplementedError

    def apply(self, region: Region, drawn: Mapping[str, Tensor]) -> tuple[ViewBatch, ...]:
        count, size = len(region.voxels), region.voxels[0].numel()
        if not on_host(region.voxels) or (count == 1 and size > SMALL_VOX):
            return self.at_once(region, drawn)
        joined: tuple[ViewBatch, ...] = ()
        step = GROUP_VOX // size if size <= SMALL_VOX else 1
        if 1 < count <= step:
            return self.at_once(region, drawn)
        for first in range(0, count, step):
            rows = slice(first, min(first + step, count))
            # A small sample that is left over goes with itself: alone it would go the way of a large one.
            with_others = [first, first] if rows.stop == first + 1 and step > 1 else rows
            views = self.at_once(_samples(region, with_others), {name: value[with_others] for name, value in drawn.items()})
            joined = joined or tuple(_room_for(view, count) for view in views)
            for whole, view in zip(joined, views, strict=True):
                _place(whole, view, rows)
        return joined


def where_chosen(
    chosen: Tensor, voxels: VoxelsBatch, drawn: Mapping[str, Tensor], change: Callable[[VoxelsBatch, Mapping[str, Tensor]], VoxelsBatch]
) -> VoxelsBatch:
    """``change(voxels, drawn)`` for the samples that ``chosen`` (B,) bool names, ``voxels`` for the others."""
    if not on_host(voxels):
        return torch.where(chosen[:, None, None, None, None], change(voxels, drawn), voxels)
    rows, some = rows_of(chosen)
    if len(rows) in (0, len(voxels)):
        return change(voxels, drawn) if len(rows) else voxels
    changed = change(voxels[some], {name: value[some] for name, value in drawn.items()})
    return copied(voxels).index_copy_(0, rows, changed[: len(rows)])


def rows_of(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The samples that (B,) bool names on a CPU, and the same for use: one out of several is there twice, since alone it would go the way
    of a large one."""
    rows = chosen.nonzero()[:, 0]
    return rows, rows.repeat(2) if len(rows) == 1 else rows


def alone(tensor: Tensor) -> bool:
    """Whether this is one sample on a CPU, so that values may be looked at."""
    return on_host(tensor) and len(tensor) == 1


def room(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of any content on another's device, and of its type by default; on a CPU in memory that is used again."""
    dtype = dtype or like.dtype
    return _MEMORY.take(shape, dtype) if on_host(like) else like.new_empty(shape, dtype=dtype)


def copied(tensor: Tensor) -> Tensor:
    return room(tensor, *tensor.shape).copy_(tensor)


def slabs(tensor: Tensor, size_vox: Sequence[int]) -> list[slice]:
    """Runs of a crop's slices that stay in the caches together; on a GPU or for a batch, all slices at once."""
    step = max(1, SLAB_VOX // (size_vox[1] * size_vox[2])) if alone(tensor) else size_vox[0]
    return [slice(first, min(first + step, size_vox[0])) for first in range(0, size_vox[0], step)]


def taker(values: Tensor, index: Tensor) -> Callable[[int], Tensor]:
    """values (B, C, N) and int32 indices (B, ...) -> a function: offset -> the values (B, C, ...) at index + offset."""
    shape = (*values.shape[:2], *index.shape[1:])
    if not on_host(values):
        chosen = index.flatten(1).to(torch.int64)[:, None].expand(-1, values.shape[1], -1)
        return lambda offset: torch.gather(values[:, :, offset:], 2, chosen).reshape(shape)
    # Selecting from a vector is several times faster there than along the last axis of an array.
    batch, channels, length = values.shape
    chosen = index.flatten(1)[:, None]
    if batch * channels > 1:
        chosen = chosen + torch.arange(0, batch * channels * length, length, dtype=index.dtype).reshape(batch, channels, 1)
    flat, chosen = values.reshape(-1), chosen.reshape(-1)
    return lambda offset: flat[offset:].index_select(0, chosen).reshape(shape)


def take(values: Tensor, index: Tensor) -> Tensor:
    """(B, C, N) values at (B, ...) int32 indices -> (B, C, ...)."""
    return taker(values, index)(0)


def _samples(region: Region, rows: slice | list[int]) -> Region:
    return replace(region, **{name: getattr(region, name)[rows] for name in ("voxels", "window", "affine", "inside")})


def _room_for(view: ViewBatch, count: int) -> ViewBatch:
    """A view of ``count`` samples, to be filled."""

    def many(tensor: Tensor) -> Tensor:
        return room(tensor, count, *tensor.shape[1:])

    tensors = {name: many(getattr(view, name)) for name in _TENSORS if getattr(view, name) is not None}
    return replace(view, **tensors, answers={name: many(value) for name, value in view.answers.items()})


def _place(whole: ViewBatch, view: ViewBatch, rows: slice) -> None:
    for name in _TENSORS:
        if getattr(view, name) is not None:
            getattr(whole, name)[rows] = getattr(view, name)[: rows.stop - rows.start]
    for name, value in view.answers.items():
        whole.answers[name][rows] = value[: rows.stop - rows.start]
