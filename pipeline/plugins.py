"""One file = one plug-in; the file's name is its key in YAML.

A plug-in file holds one class whose name is the file's name in capitals (``visual_words`` -> ``VisualWords``), with a nested
pydantic ``Config``. Folders are found by listing them; nothing registers itself.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

ROOT = Path(__file__).parent


class Config(BaseModel):
    """Base of every setting: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _tells_known_keys(cls, value: Any, validate: Any) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            raise told_again(
                error, known={name for key, field in cls.model_fields.items() for name in (key, field.alias) if name}
            ) from None


def meant(word: str, known: Iterable[str]) -> str:
    """What a misspelt word was meant to be, or all that it could be."""
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"


def told_again(error: ValidationError, place: str | None = None, known: Iterable[str] = ()) -> ValidationError:
    """The same errors, beneath ``place``; of an unknown key, with what it was meant to be (type ``unknown_key``)."""
    lines = []
    for item in error.errors():
        kind, where, told = item["type"], item["loc"], item.get("ctx", {})
        if kind == "extra_forbidden" and len(where) == 1 and known:
            kind, told = "unknown_key", {"meant": meant(str(where[0]), known)}
        wrong = PydanticCustomError(kind, "is not a key here; {meant}", told) if kind == "unknown_key" else kind
        lines.append(InitErrorDetails(type=wrong, loc=(place, *where) if place else where, input=item["input"], ctx=told))
    return ValidationError.from_exception_data(error.title, lines)


def names(folder: str) -> tuple[str, ...]:
    """Keys of the plug-ins in ``pipeline/<folder>``, sorted; files that begin with an underscore are none."""
    return tuple(sorted(path.stem for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("_")))


@cache
def load(folder: str, name: str) -> Any:
    """The plug-in's class; an unknown name is a ``ValueError`` that lists the known ones."""
    if name not in names(folder):
        close = difflib.get_close_matches(name, names(folder), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"there is no {name!r} in {folder}; {hint}known are {', '.join(names(folder))}")
    module = importlib.import_module(f"pipeline.{folder}.{name}")
    wanted = name.replace("_", "")
    for attribute, value in vars(module).items():
        if isinstance(value, type) and attribute.lower() == wanted and value.__module__ == module.__name__:
            return value
    raise ValueError(f"pipeline/{folder}/{name}.py: holds no class named {wanted!r} in capitals")


def settings(folder: str, name: str, values: dict[str, Any] | None) -> Config:
    """The plug-in's validated ``Config``; what is wrong with it stands under its name."""
    try:
        return load(folder, name).Config.model_validate(values or {})
    except ValidationError as error:
        raise told_again(error, name) from None


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
