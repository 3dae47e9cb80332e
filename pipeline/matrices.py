"""Small matrices on a GPU, without a wait."""

import torch
from torch import Tensor


def inverted(matrices: Tensor) -> Tensor:
    """(B, 3, 3) -> their inverses, by cross products: ``torch.linalg.inv`` waits for a GPU to say whether one is singular."""
    first, second, third = matrices.unbind(1)
    adjugate = torch.stack([torch.linalg.cross(second, third), torch.linalg.cross(third, first), torch.linalg.cross(first, second)], 2)
    return adjugate / (first * adjugate[:, :, 0]).sum(1)[:, None, None]
