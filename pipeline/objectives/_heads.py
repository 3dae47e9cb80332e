"""Heads that objectives put on features. They compute in float32, also under autocast and on bfloat16 features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Voxelwise(nn.Conv3d):
    """A 1 x 1 x 1 convolution: dense features (B, C, D, H, W) to an answer for every voxel (B, out, D, H, W)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, 1)

    def forward(self, dense: Tensor) -> Tensor:
        with torch.autocast(dense.device.type, enabled=False):
            return super().forward(dense.float())


class Projector(nn.Module):
    """Linear, ReLU, Linear, then unit length: pooled features (B, C) to points on a sphere (B, out). No batch norm: batches are small."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.last = nn.Linear(hidden, out)

    def forward(self, pooled: Tensor) -> Tensor:
        with torch.autocast(pooled.device.type, enabled=False):
            return F.normalize(self.last(F.relu(self.first(pooled.float()))), dim=1, eps=1e-6)
