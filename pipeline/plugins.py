"""One file = one plug-in; the file's name is its key in YAML.

A plug-in file holds one class whose name is the file's name in capitals (``visual_words`` -> ``VisualWords``), with a nested
pydantic ``Config``. Folders are found by listing them; nothing registers itself.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ROOT = Path(__file__).parent


class Config(BaseModel):
    """Base of every setting: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


def names(folder: str) -> tuple[str, ...]:
    """Keys of the plug-ins in ``pipeline/<folder>``, sorted; files that begin with an underscore are none."""
    return tuple(sorted(path.stem for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("_")))


@cache
def load(folder: str, name: str) -> Any:
    """The plug-in's class; an unknown name is a ``ValueError`` that lists the known ones."""
    if name not in names(folder):
        raise ValueError(f"{folder}: there is no {name!r}; known are {', '.join(names(folder))}")
    module = importlib.import_module(f"pipeline.{folder}.{name}")
    wanted = name.replace("_", "")
    for attribute, value in vars(module).items():
        if isinstance(value, type) and attribute.lower() == wanted and value.__module__ == module.__name__:
            return value
    raise ValueError(f"pipeline/{folder}/{name}.py: holds no class named {wanted!r} in capitals")


def settings(folder: str, name: str, values: dict[str, Any] | None) -> Config:
    """The plug-in's validated ``Config``."""
    return load(folder, name).Config.model_validate(values or {})


def only(mapping: dict[str, Any], key: str) -> tuple[str, dict[str, Any]]:
    """The one entry of a mapping such as ``{unet: {...}}``."""
    if not isinstance(mapping, dict) or len(mapping) != 1:
        raise ValueError(f"{key}: must name exactly one plug-in, such as {{name: {{...}}}}, not {mapping!r}")
    name, values = next(iter(mapping.items()))
    return name, values or {}


def one_of(folder: str) -> BeforeValidator:
    """Validates a field that names one plug-in of a folder, and writes its defaults out: ``{unet: None}`` -> ``{unet: {widths: ...}}``."""

    def complete(value: Any) -> dict[str, Any]:
        name, values = only(value, folder)
        return {name: settings(folder, name, values).model_dump(mode="json")}

    return BeforeValidator(complete)


class ObjectiveConfig(Config):
    """Base of an objective's settings."""

    weight: float = Field(1.0, ge=0, description="Factor of this objective's loss in the sum.")
