"""Configuration files: YAML that is read within limits, and errors that name the file and the key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from pipeline.plugins import Config

MAX_YAML_BYTES = 1_000_000
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,47}$")]
Triple = tuple[int, int, int]
TripleMm = tuple[float, float, float]
Placement = Literal["sform", "qform"]  # which of a NIfTI header's two places counts


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A mapping from a small YAML file without tags and aliases; anything else is a ``ValueError`` that names the file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.stat().st_size > MAX_YAML_BYTES:
        raise ValueError(f"{path}: is larger than {MAX_YAML_BYTES} bytes, so it is no configuration")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.tokens.AliasToken | yaml.tokens.AnchorToken) for token in yaml.scan(text)):
            raise ValueError(f"{path}: uses YAML anchors or aliases; write the values out")
        value = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no valid YAML: {error}") from error
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply, so it is no configuration") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold a mapping of keys to values")
    return value


def read_config(path: Path | str, kind: type[Config]) -> Any:
    """A Study, Recipe or Task from its file; each wrong key is one line ``file: key: what is wrong``."""
    value = read_yaml(path)
    value.setdefault("name", Path(path).stem.replace("-", "_"))
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        items = error.errors()
        strange = [str(item["loc"][0]) for item in items if item["type"] == "unknown_key" and len(item["loc"]) == 1]
        if len(strange) > 2:
            told = f"{', '.join(strange)} are no keys of a {kind.__name__.lower()}, which has {', '.join(kind.model_fields)}"
            raise ValueError(f"{path}: is no {kind.__name__.lower()}: {told}") from error
        places = [item["loc"] for item in items]  # a list is too short because one of its items is wrong
        causes = [item for item in items if not any(item["loc"] == place[: len(item["loc"])] != place for place in places)]
        raise ValueError("\n".join(_line(path, item) for item in causes)) from error


def _line(path: Path | str, item: Any) -> str:
    message = "is missing" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
    if isinstance(item["input"], str | int | float) and item["type"] not in ("value_error", "unknown_key"):
        message += f", not {item['input']!r}"
    return ": ".join(filter(None, (str(path), ".".join(map(str, item["loc"])), message)))
