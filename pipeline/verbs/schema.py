"""Write what follows from the code: the JSON schemas that editors and Snakemake read, and the page of reason codes.

Reads the settings of every plug-in. Writes configs/schemas/study.json, recipe.json and task.json, and docs/reasons.md; with --check it
writes nothing and fails when one of them is not what would be written.

\b
Examples:
  vesalius schema
  vesalius schema --check
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def run(check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if a file is out of date.")] = False) -> None:
    from pipeline.files import write_if_changed

    texts = {FOLDER / f"{name}.json": json.dumps(schema, indent=2, sort_keys=True) + "\n" for name, schema in schemas().items()}
    texts[ROOT / "docs" / "reasons.md"] = reasons()
    for path, text in texts.items():
        if not check:
            typer.echo(f"{path.name}: {'written' if write_if_changed(path, text) else 'unchanged'}")
        elif not path.exists() or path.read_text() != text:
            raise ValueError(f"{path.parent.name}/{path.name}: is out of date; run `vesalius schema`")


def reasons() -> str:
    """The page of reason codes, in Markdown."""
    from pipeline.scans.flags import FLAGS
    from pipeline.scans.quarantine import REASONS

    rows = [f"| `{code.value}` | {reason} | {remedy} |" for code, (reason, remedy) in REASONS.items()]
    head = [
        "# Why a file or scan was refused",
        "",
        "Codes of `quarantine.tsv`. Nothing is repaired in silence: what is wrong is yours to mend, and the next run takes it in.",
        "Your own names of the files stand in the private crosswalk only.",
        "",
        "| code | what it means | what to do |",
        "|---|---|---|",
    ]
    flags = [
        "",
        "## Flags",
        "",
        "Codes in the column `flags` of `inventory.tsv` and of the manifest: such a scan is read and right, and you may want to know.",
        "`pool: {select: \"flags == ''\"}` keeps them out of pretraining.",
        "",
        "| flag | what it means |",
        "|---|---|",
        *(f"| `{flag.value}` | {meaning} |" for flag, meaning in FLAGS.items()),
    ]
    return "\n".join([*head, *rows, *flags]) + "\n"


def schemas() -> dict[str, dict[str, Any]]:
    """Schema of each kind of file, by the name of the schema's file."""
    from pipeline.recipe import Recipe
    from pipeline.study import Study
    from pipeline.task import Task

    recipe, task, study = (_of(kind) for kind in (Recipe, Task, Study))
    for key, folder in (("network", "networks"), ("crops", "crops")):
        _fill(recipe, key, _one(recipe, folder))
    _fill(recipe, "views", {"type": "object", "minProperties": 1, "additionalProperties": _one(recipe, "views")})
    _fill(recipe, "objectives", {**_mapping(recipe, "objectives"), "minProperties": 1})
    _fill(task, "kind", _one(task, "tasks"))
    _fill(study, "sample", {"anyOf": [_one(study, "cohorts"), {"type": "null"}], "default": None})
    return {"study": study, "recipe": recipe, "task": task}


def _of(kind: type) -> dict[str, Any]:
    """Pydantic's schema with the dialect named; a file's own name stands in for ``name``."""
    schema = kind.model_json_schema(mode="validation", by_alias=True)
    schema["required"] = [key for key in schema.get("required", []) if key != "name"]
    return {"$schema": DIALECT, **schema}


def _fill(schema: dict[str, Any], key: str, mapping: dict[str, Any]) -> None:
    """Puts what plug-ins allow in the place of 'any object'; the description stays."""
    old = schema["properties"][key]
    schema["properties"][key] = {**{word: old[word] for word in ("title", "description") if word in old}, **mapping}


def _mapping(schema: dict[str, Any], folder: str) -> dict[str, Any]:
    """{plug-in: settings} for every plug-in of a folder; settings left empty are the defaults."""
    from pipeline.plugins import load, names

    properties = {}
    for name in names(folder):
        config = load(folder, name).Config.model_json_schema(
            mode="validation", by_alias=True, ref_template=f"#/$defs/{folder}.{name}.{{model}}"
        )
        for inner, value in config.pop("$defs", {}).items():
            schema.setdefault("$defs", {})[f"{folder}.{name}.{inner}"] = value
        title = (load(folder, name).__doc__ or "").strip().partition("\n")[0]
        properties[name] = {**config, "title": title} if config.get("required") else {"anyOf": [config, {"type": "null"}], "title": title}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _one(schema: dict[str, Any], folder: str) -> dict[str, Any]:
    return {**_mapping(schema, folder), "minProperties": 1, "maxProperties": 1}
