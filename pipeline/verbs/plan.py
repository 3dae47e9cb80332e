"""Resolve a study before any work: every default, run, transfer and comparison goes to plan.json.

Reads the study, its recipes and tasks. Writes results/STUDY/plan.json and results/STUDY/sources.txt, each only if it changed. With
--refresh a plan whose files, version, data and results are unchanged is kept unread, so that asking again costs nothing.

\b
sources.txt has one line for each folder of scans or labels: sha256 over the path, size and time of every file, and their number.
No file name stands in it; it tells `index` that there is something new.

\b
Examples:
  vesalius plan configs/studies/demo.yaml
  vesalius plan configs/studies/hippocampus.yaml --data scans
  vesalius plan configs/studies/demo.yaml --refresh
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.folder import StudyFolder
    from pipeline.plan import Plan

CODE = "pipeline/**/*.py"


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML, such as configs/studies/demo.yaml.")],
    data: Annotated[str | None, typer.Option(help="Folder that {data} stands for; default: the study's own.")] = None,
    results: Annotated[Path, typer.Option(help="Folder that holds the folders of all studies.")] = Path("results"),
    refresh: Annotated[bool, typer.Option("--refresh", help="Keep a plan that is up to date.")] = False,
) -> None:
    from pipeline.configuration import read_yaml
    from pipeline.folder import StudyFolder

    value = read_yaml(study)
    where = StudyFolder(results / str(value.get("name", study.stem.replace("-", "_"))))
    plan = _kept(study, value, where, data) if refresh else None
    if plan is None:
        plan = _planned(study, where, data, results)
    _write_sources(plan, where, study)
    typer.echo(f"plan: {where.plan} has {len(plan['runs'])} runs, {len(plan['lexicons'])} lexicons, {len(plan['transfers'])} transfers")


def _kept(study: Path, value: dict[str, Any], where: StudyFolder, data: str | None) -> dict[str, Any] | None:
    """The old plan, if planning again would give it."""
    from pipeline import __version__
    from pipeline.files import digest, read_json

    try:
        plan = read_json(where.plan)
        wanted = data if data is not None else value.get("data", "")
        same = (plan["version"], plan["study"]["data"], plan["results"]) == (__version__, wanted, str(where.root))
        inputs = dict(plan["inputs"])
        same = same and inputs.pop(CODE, None) == _code_digest() and str(study) in inputs
        return plan if same and all(digest(path) == known for path, known in inputs.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _planned(study: Path, where: StudyFolder, data: str | None, results: Path) -> dict[str, Any]:
    import json

    from pipeline.files import write_if_changed
    from pipeline.plan import make_plan, plan_json
    from pipeline.volumes.jobs import FORMAT

    plan = make_plan(study, data, str(results))
    plan = replace(plan, inputs={**plan.inputs, CODE: _code_digest()}, store_format=FORMAT)
    value = plan_json(plan)
    _source_folders(value, study)
    write_if_changed(where.plan, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
    _show(plan)
    return value


def _code_digest() -> str:
    """sha256 of the package's sources: a plug-in's new default must reach the plan though the version is the same."""
    root = Path(__file__).resolve().parent.parent
    known = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        known.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return known.hexdigest()


def _source_folders(plan: dict[str, Any], study: Path) -> list[tuple[str, Path, bool]]:
    """(key in the study, folder, whether it is there); a missing one is refused unless the study's ``sample`` will make it."""
    folders = [(f"sources.{number}", source["path"]) for number, source in enumerate(plan["study"]["sources"])]
    folders += [(f"tasks.{name}.labels", task["labels"]) for name, task in plan["tasks"].items() if task["labels"]]
    found = []
    for key, path in folders:
        there = bool(path) and Path(path).is_dir()
        if not there and not plan["study"]["sample"]:
            remedy = "name one that exists, or give `--config data=DIR` (snakemake) or `--data DIR` (vesalius)"
            raise ValueError(f"{study}: {key}: there is no folder {path!r}; {remedy}")
        found.append((key, Path(path), there))
    return found


def _write_sources(plan: dict[str, Any], where: StudyFolder, study: Path) -> None:
    from pipeline.files import write_if_changed

    lines = []
    for key, folder, there in _source_folders(plan, study):
        digest, number = _folder_digest(folder, where.root.resolve()) if there else ("-", 0)
        lines.append(f"{digest}\t{number}\t{key}\n")
    write_if_changed(where.sources, "".join(lines))


def _folder_digest(folder: Path, own: Path) -> tuple[str, int]:
    """(sha256 over sorted (path, size, mtime_ns), number of files); links are not followed, our own results below are not scans."""
    root = folder.resolve()
    known, number = hashlib.sha256(), 0
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if Path(place, name) != own)
        for name in sorted(files):
            path = os.path.join(place, name)
            status = os.lstat(path)
            known.update(os.fsencode(os.path.relpath(path, root)) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
            number += 1
    return known.hexdigest(), number


def _show(plan: Plan) -> None:
    """What will run, as tables."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    steps = {name: str(recipe["training"]["steps"]) for name, recipe in plan.recipes.items()}
    tables = {
        "Pretraining": (("run", "steps", "needs"), [(r.run, steps[r.recipe], ", ".join(r.needs) or "-") for r in plan.runs]),
        "Lexicons": (("lexicon", "words found by"), [(item.lexicon, item.run) for item in plan.lexicons]),
        "Transfer": (("transfer", "starts from"), [(t.transfer, ", ".join(t.runs) or "random weights") for t in plan.transfers]),
        "Comparisons": (
            ("task", "initialisation", "against", "planned"),
            [(c["task"], c["initialisation"], c["against"], "yes" if c["planned"] else "no") for c in plan.comparisons],
        ),
    }
    console = Console(width=140, highlight=False)
    for title, (columns, rows) in tables.items():
        if rows:
            table = Table(*columns, title=title, title_justify="left", box=SIMPLE)
            for row in rows:
                table.add_row(*row)
            console.print(table)
