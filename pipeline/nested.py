"""Nested frozen values of tensors (Region, ViewBatch, Step, Features): one walk through them for whatever is done to each tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor


def mapped(act: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    """``act`` on every tensor of a value, together with the tensors in the same places of other values of the same build."""
    if isinstance(first, Tensor):
        return act(first, *others)
    if is_dataclass(first):
        named = {f.name: mapped(act, getattr(first, f.name), *(getattr(o, f.name) for o in others)) for f in fields(first)}
        return replace(first, **named)
    if isinstance(first, Mapping):
        return {name: mapped(act, value, *(o[name] for o in others)) for name, value in first.items()}
    if isinstance(first, tuple | list):
        return tuple(mapped(act, *same) for same in zip(first, *others, strict=True))
    return first


def tensors(value: Any) -> list[Tensor]:
    """Every tensor in a value, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(note, value)
    return found
