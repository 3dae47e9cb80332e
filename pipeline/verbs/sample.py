"""Make or download the study's public cohort; a study of your own scans has none.

Reads plan.json: `sample` names a file of pipeline/cohorts with its settings. Fills the study's data folder and writes

\b
sample.json  cohort, settings, and for each part: origin, licence, package or address with digest, number and digest of its files

What is there with the right digest is kept, so that a killed call continues where it was.

\b
Examples:
  vesalius sample results/demo
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def run(folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")]) -> None:
    from pipeline.files import write_json
    from pipeline.plan import read_plan

    plan, where = read_plan(folder)
    card = make_sample(plan.study)
    write_json(where.sample, card)
    if card["cohort"] is None:
        typer.echo("sample: the study names no public cohort, so its folders are used as they are")
    for part in card.get("parts", ()):
        typer.echo(f"sample: {part['part']}: {part['files']} files, {part['licence']}; {part['origin']}")


def make_sample(study: dict[str, Any]) -> dict[str, Any]:
    """The content of sample.json: nothing in it depends on when, where or how often it was made."""
    from pydantic import ValidationError

    from pipeline import plugins

    if not study["sample"]:
        return {"cohort": None}
    name, values = plugins.only(study["sample"], "sample")
    try:
        config = plugins.settings("cohorts", name, values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(("sample", *map(str, first["loc"])))
        raise ValueError(f"study {study['name']}: {where}: {first['msg'].removeprefix('Value error, ')}") from error
    if not study["data"]:
        raise ValueError(f"study {study['name']}: data: is empty, but `sample` needs a folder to fill; name one, such as `data: data/NAME`")
    data = Path(study["data"])
    if data.exists() and not data.is_dir():
        raise ValueError(f"study {study['name']}: data: {data} is a file, not a folder; name another")
    parts = plugins.load("cohorts", name)(config).make(data)
    return {"cohort": name, "settings": config.model_dump(mode="json"), "parts": parts}
