"""Parts of a batch and the whole again: how nested frozen values (Region, Step, Features) are cut, joined and counted through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from pipeline.nested import mapped
from pipeline.step import Features, Region

PLACES = 4  # voxels of a crop that stand for all of its dense features
Place = tuple[str, int, str, int]  # view, crop, name of the feature, level
Student = Mapping[str, tuple[Features, ...]]


def merge(parts: Sequence[Any]) -> Any:
    """Values of one build, joined along the samples."""
    return parts[0] if len(parts) == 1 else mapped(lambda *tensors: torch.cat(tensors), *parts)


def part(value: Any, rows: slice) -> Any:
    """Some samples of a value; nothing is copied."""
    return mapped(lambda tensor: tensor[rows], value)


def micro_batches(region: Region, size: int) -> tuple[Region, ...]:
    """A rank's share of a batch in pieces of ``size`` crops."""
    return tuple(part(region, rows) for rows in spans(len(region.ids.sample), size))


def spans(count: int, size: int) -> list[slice]:
    return [slice(low, low + size) for low in range(0, count, size)]


def flat(student: Student) -> dict[Place, Tensor]:
    """Every feature by its place."""
    found: dict[Place, Tensor] = {}
    for view, crops in student.items():
        for number, features in enumerate(crops):
            for item in fields(features):
                value = getattr(features, item.name)
                for level, tensor in enumerate(value if isinstance(value, tuple) else (value,)):
                    if tensor is not None:
                        found[view, number, item.name, level] = tensor
    return found


def leaves(student: Student) -> Student:
    """The same features cut off from what made them; a loss's gradient ends there."""
    return mapped(lambda tensor: tensor.detach().requires_grad_(tensor.is_floating_point()), student)


def slim(student: Student) -> Student:
    """What is kept of the student after the step: pooled features and tokens, which objectives may read, and for watchers a few voxels of
    the coarsest level and of dense features. The rest is too large."""
    return {view: tuple(_slim(features) for features in crops) for view, crops in student.items()}


def thinned(features: Tensor) -> Tensor:
    """(B, C, D, H, W) -> (B, C, PLACES, 1, 1): voxels on the diagonal of each crop, evenly spaced and away from its faces."""
    marks = [(2 * place + 1) / (2 * PLACES) for place in range(PLACES)]
    picked = [features[(..., *(int(edge * mark) for edge in features.shape[2:]))] for mark in marks]
    return torch.stack(picked, 2)[..., None, None]


def pull(loss: Tensor, cut: Mapping[Place, Tensor]) -> dict[Place, Tensor]:
    """Backward of one objective: gradients on its heads, and the gradient on each feature that it reads."""
    loss.backward()
    found = {path: leaf.grad for path, leaf in cut.items() if leaf.grad is not None}
    for leaf in cut.values():
        leaf.grad = None
    return found


def products(pulls: Sequence[Mapping[Place, Tensor]]) -> Tensor:
    """(n, n) float32: inner products of n objectives' gradients with respect to the features that they share."""
    zero = next(tensor for one in pulls for tensor in one.values()).new_zeros((), dtype=torch.float32)

    def product(one: Mapping[Place, Tensor], other: Mapping[Place, Tensor]) -> Tensor:
        return sum(((one[path].float() * other[path].float()).sum() for path in one if path in other), zero)

    lower = [[product(one, other) for other in pulls[: i + 1]] for i, one in enumerate(pulls)]
    return torch.stack([torch.stack([lower[max(i, j)][min(i, j)] for j in range(len(pulls))]) for i in range(len(pulls))])


def _slim(features: Features) -> Features:
    coarsest = tuple(thinned(level.detach()) for level in features.levels[-1:])
    dense = None if features.dense is None else thinned(features.dense.detach())
    return Features(_cut(features.pooled), coarsest, _cut(features.tokens), dense=dense)


def _cut(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
