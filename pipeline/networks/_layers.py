"""Layers that the convolutional networks share: they compute what their names say on a CPU and on a GPU, in float32 and under autocast."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Convolution of size 3, norm, leaky ReLU. No bias, since the norm would take it away again."""

    def __init__(self, before: int, width: int, norm: nn.Module, slope: float, stride: int = 1) -> None:
        super().__init__()
        self.conv = Convolution(before, width, 3, stride, 1, bias=False)
        self.norm = norm
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), self.slope, inplace=True)


class MaskToken(nn.Module):
    """What the network sees where voxels are hidden: one learned value for each input channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.value)

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        if hidden is None:
            raise ValueError("network: hide is 'token', but the view names no hidden voxels")
        return torch.where(hidden[:, None], self.value.to(x.dtype)[:, None, None, None], x)


class Convolution(nn.Conv3d):
    """A convolution that keeps to float32 where bfloat16 cannot be trusted."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False) if thin(x) else nullcontext():
            return super().forward(x.float() if thin(x) else x)


class Transposed(nn.ConvTranspose3d):
    """Its transpose, likewise."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False) if thin(x) else nullcontext():
            return super().forward(x.float() if thin(x) else x, output_size=output_size)


class Norm(nn.GroupNorm):
    """Group norm whose output has its input's type; instance norm is one of a channel a group.

    Autocast on a GPU would run it in float32 and hand float32 on: twice the memory traffic and twice the memory. The kernel sums its
    statistics in float32 whatever the type, so that bfloat16 loses no more than the rounding of what goes in and out.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def thin(x: Tensor) -> bool:
    """Whether a CPU tensor has an axis of one or two voxels: there oneDNN's bfloat16 weight gradient (seen in PyTorch 2.13 with
    AVX512_BF16) reads memory that nobody wrote, gives NaN now and then, and for single voxels may crash. Float32 is sound.
    """
    return x.device.type == "cpu" and min(x.shape[2:]) <= 2
