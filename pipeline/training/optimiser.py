"""AdamW with a linear warm-up and a cosine to zero; no decay on biases and norms."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from pipeline.training.distributed.sharded import is_sharded


def make_optimiser(groups: Iterable[tuple[Iterable[nn.Parameter], float]], learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """One optimiser over (parameters, factor of the learning rate) groups; frozen parameters (factor 0) are left out.

    On a GPU it is torch's fused one, which takes a tensor ``found_inf`` that says whether to descend; not where weights lie in parts.
    """
    built = []
    for parameters, factor in groups:
        chosen = [p for p in parameters if p.requires_grad and factor > 0]
        decayed, plain = [p for p in chosen if p.ndim > 1], [p for p in chosen if p.ndim <= 1]
        for members, decay in ((decayed, weight_decay), (plain, 0.0)):
            if members:
                built.append({"params": members, "lr": learning_rate * factor, "peak": learning_rate * factor, "weight_decay": decay})
    own = [p for group in built for p in group["params"]]
    mixed = any(is_sharded(p) for p in own)  # parts and whole tensors cannot share one fused update
    fused = all(p.is_cuda for p in own) and not mixed
    how = {"fused": True} if fused else {"foreach": False if mixed else None}
    return torch.optim.AdamW(built, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, **how)


def rate_factor(step: int, num_steps: int, warmup: float) -> float:
    """Factor of the peak learning rate at a step (0-based): linear over the warm-up, then half a cosine to zero."""
    warm = max(1, round(warmup * num_steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, num_steps - warm)))


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> float:
    """Sets every group's rate to factor times its peak; returns the first group's."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
    return float(optimiser.param_groups[0]["lr"])
