"""Local shuffling: voxels permuted inside small boxes, exactly and without a loop over boxes.

Models Genesis (Zhou et al. 2019) shuffles 10,000 boxes of sides 1 to a tenth of the crop one after the other. Here each axis is
cut at random into pieces of those lengths, so that boxes of every shape tile the crop, and each box is shuffled with a given
probability: the sizes are the paper's, and a setting says which share of the crop is shuffled. Permutations come from a fixed
table, rotated by a random number.
"""

import math

import torch
from torch import Tensor

from pipeline.keys import bits, fold, key, uniform
from pipeline.shapes import VoxelsBatch
from pipeline.views._walk import alone, copied, take

_FEW = 64  # boxes that are quicker walked than all voxels
_PERMUTATIONS = 4  # of each shape of box, times its voxels by rotation; a power of two


class Shuffle:
    """Draws tilings of crops of one size and permutes the voxels inside their boxes."""

    def __init__(self, size_vox: tuple[int, int, int], side: float, share: float) -> None:
        self.size_vox, self.share = size_vox, share
        self.sides = tuple(min(n, max(2, int(n * side))) for n in size_vox)
        self.pieces = [_pieces(n, side) for n, side in zip(size_vox, self.sides, strict=True)]
        self._tables = {torch.device("cpu"): (*_table(self.sides, size_vox), *self.pieces)}

    def draw(self, keys: Tensor) -> dict[str, Tensor]:
        """order (B, pieces of all axes) float32; boxes (B, boxes) int64: which boxes are shuffled and how."""
        counts = [len(piece) for piece in self.pieces]
        return {"order": uniform(fold(keys, "order"), sum(counts)), "boxes": bits(fold(keys, "boxes"), math.prod(counts))}

    def apply(self, voxels: VoxelsBatch, order: Tensor, boxes: Tensor) -> VoxelsBatch:
        """Voxels of all channels permuted alike."""
        if alone(voxels) and self.share * boxes.shape[1] <= _FEW:
            return self._few(voxels, order, boxes)
        return take(voxels.flatten(2), self.source(order, boxes))

    def tiling(self, order: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each axis: lengths (B, pieces), and for each voxel of the axis its piece, its index in it, and the piece's first voxel."""
        found = []
        for (begins, ends), size in zip(self._cuts(order), self.size_vox, strict=True):
            position = torch.arange(size, device=order.device)
            owner = (position[None, :, None] >= ends[:, None, :]).sum(2)
            begin = begins.gather(1, owner)
            found.append((ends.clamp(max=size) - begins, owner, position - begin, begin))
        return found

    def source(self, order: Tensor, boxes: Tensor) -> Tensor:
        """(B, D, H, W) int32: the linear index that each voxel takes its value from."""
        (len_d, own_d, in_d, low_d), (len_h, own_h, in_h, low_h), (len_w, own_w, in_w, low_w) = self.tiling(order)
        batch, (depth, height, width) = len(order), self.size_vox
        counts = [length.shape[1] for length in (len_d, len_h, len_w)]
        start = self._starts(boxes.reshape(batch, *counts), len_d[:, :, None, None], len_h[:, None, :, None], len_w[:, None, None, :])
        start = start.gather(3, own_w[:, None, None].expand(-1, *start.shape[1:3], -1))
        start = start.gather(2, own_h[:, None, :, None].expand(-1, start.shape[1], -1, width))
        breadth = len_w.gather(1, own_w)[:, None, :].to(torch.int32)
        layer = len_h.gather(1, own_h)[:, :, None].to(torch.int32) * breadth
        start += (in_h[:, :, None].to(torch.int32) * breadth + in_w[:, None, :].to(torch.int32))[:, None]
        rows = (own_d + torch.arange(batch, device=order.device)[:, None] * start.shape[1]).flatten()
        entry = start.reshape(-1, height * width).index_select(0, rows).reshape(batch, depth, height, width)
        entry.addcmul_(in_d[:, :, None, None].to(torch.int32), layer[:, None])
        corner = (low_h[:, :, None] * width + low_w[:, None, :]).to(torch.int32)
        table, *_ = self._on(order.device)
        source = table.index_select(0, entry.flatten()).reshape(entry.shape)
        return source.add_(corner[:, None]).add_((low_d * (height * width)).to(torch.int32)[:, :, None, None])

    def _few(self, voxels: VoxelsBatch, order: Tensor, boxes: Tensor) -> VoxelsBatch:
        """The same of one sample on a CPU where hardly a box is shuffled: box by box."""
        cuts, (_, height, width) = self._cuts(order), self.size_vox
        boxes = boxes.reshape([ends.shape[1] for _, ends in cuts])
        chosen = self._chosen(boxes).nonzero()
        lows = torch.stack([begins[0, chosen[:, axis]] for axis, (begins, _) in enumerate(cuts)], 1)
        highs = torch.stack([ends[0, chosen[:, axis]].clamp(max=self.size_vox[axis]) for axis, (_, ends) in enumerate(cuts)], 1)
        starts = self._starts(boxes[tuple(chosen.T)], *(highs - lows).T)
        shuffled, values, table = copied(voxels), voxels.flatten(2), self._on(voxels.device)[0]
        for start, low, high in zip(starts.tolist(), lows.tolist(), highs.tolist(), strict=True):
            sides = [max(0, last - first) for first, last in zip(low, high, strict=True)]
            source = table[start : start + math.prod(sides)] + ((low[0] * height + low[1]) * width + low[2])
            shuffled[(..., *map(slice, low, high))] = values[:, :, source].reshape(*values.shape[:2], *sides)
        return shuffled

    def _cuts(self, order: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each axis (B, pieces): each piece's first voxel, and its end, which for the last ones may lie beyond the crop."""
        found, first = [], 0
        _, _, *pieces = self._on(order.device)
        for piece, size in zip(pieces, self.size_vox, strict=True):
            rank = order[:, first : first + len(piece)].argsort(dim=1, stable=True)
            first += len(piece)
            ends = piece[rank].cumsum(1)
            found.append((torch.nn.functional.pad(ends.clamp(max=size), (1, 0))[:, :-1], ends))
        return found

    def _chosen(self, boxes: Tensor) -> Tensor:
        """Which boxes are shuffled."""
        return (boxes & 0xFFFFFF).to(torch.float32) < self.share * 0x1000000

    def _starts(self, boxes: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """int32: where in the table the permutation of each box begins, whose sides are a, b, c."""
        _, base, *_ = self._on(boxes.device)
        a, b, c = (length.clamp(min=1) for length in (a, b, c))
        shape = ((a - 1) * self.sides[1] + (b - 1)) * self.sides[2] + (c - 1)
        begin, count = base[shape], a * b * c
        rotation = ((boxes >> 24 & 0xFFFFFF) * count) >> 24
        moved = begin + count * (1 + 2 * (boxes >> 48 & (_PERMUTATIONS - 1))) + rotation
        return torch.where(self._chosen(boxes), moved, begin).to(torch.int32)

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        """Table, base and pieces, copied to a device once."""
        if device not in self._tables:
            self._tables[device] = tuple(tensor.to(device) for tensor in self._tables[torch.device("cpu")])
        return self._tables[device]


def _pieces(size: int, longest: int) -> Tensor:
    """Lengths 1, 2, ..., longest, 1, 2, ... until they fill an axis: equally frequent, and always as many."""
    lengths = []
    while sum(lengths) < size:
        lengths.append(len(lengths) % longest + 1)
    return torch.tensor(lengths)


def _table(sides: tuple[int, int, int], size_vox: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """For every shape of box: the identity, then each permutation twice in a row, so that any rotation of it is a stretch of the table.

    Entries are linear offsets (int32) from a box's first voxel; base (shapes,) int64 says where a shape begins.
    """
    parts, base, length = [], [], 0
    for a in range(1, sides[0] + 1):
        for b in range(1, sides[1] + 1):
            for c in range(1, sides[2] + 1):
                d, h, w = (torch.arange(n, dtype=torch.int32) for n in (a, b, c))
                offset = ((d[:, None, None] * size_vox[1] + h[:, None]) * size_vox[2] + w).flatten()
                seeds = torch.tensor([key("local shuffling", a, b, c, number) for number in range(_PERMUTATIONS)])
                orders = bits(seeds, len(offset)).argsort(1)
                parts += [offset, offset[orders].repeat(1, 2).flatten()]
                base.append(length)
                length += len(offset) * (1 + 2 * _PERMUTATIONS)
    return torch.cat(parts), torch.tensor(base)
