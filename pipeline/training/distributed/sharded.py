"""Tensors of which each rank may hold a part (FSDP2's DTensors): whole for files, in parts for the network, and their norm.

Files hold whole tensors, so that what one number of ranks wrote another can read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Known by its method: importing DTensor costs seconds that most runs never need."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """What this rank holds; writing into it writes into the tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Every tensor in full. All ranks must call it; those that don't ``keep`` it get nothing, one tensor after the other."""
    found = {}
    for name, value in tensors.items():
        full = value.full_tensor().cpu() if is_sharded(value) else value
        if keep:
            found[name] = full
    return found


def settled(like: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: whole tensors, each divided over the ranks as the tensor of its name is."""
    return {name: divided(value, like[name]) if name in like else value for name, value in tensors.items()}


def divided(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, divided as ``like`` if it has the same shape."""
    if not is_sharded(like) or like.shape != value.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(local(like).device), like.device_mesh, like.placements, src_data_rank=None)


def settled_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Moments of an optimiser, named ``optimiser.<position>.<name>``, divided as their parameters are."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    places = {name: name.split(".")[1] for name in tensors if name.startswith("optimiser.")}
    return {name: divided(value, parameters[int(places[name])]) if name in places else value for name, value in tensors.items()}


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """The norm of all gradients together, which are scaled down to ``most`` if it is larger."""
    parameters = list(parameters)
    if not any(is_sharded(p) for p in parameters):
        return nn.utils.clip_grad_norm_(parameters, most)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = [nn.utils.get_total_norm([g for g in gradients if is_sharded(g) == apart]) for apart in (True, False)]
    norm = torch.stack([n.full_tensor() if is_sharded(n) else n for n in norms]).norm()
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local(gradient).mul_(factor)
    return norm
