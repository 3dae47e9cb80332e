"""Keep a study's results as small files that may be committed; with --restore, put them back and go on from there.

Reads plan.json, transfers/*/search and cells, verdict.tsv, verdict.json, benchmarks. Writes into DIR

\b
TASK-INITIALISATION.json  its finished cells: settings, digests of data and weights, Dice of each validation and test scan and class
verdict.tsv, verdict.json as they stand in the study, if the verdict is made
README.md                 the verdict as a table with its sentences, and the cost
cost.json                 machine, versions, and jobs, seconds and peak memory of each stage

No names are in them: scans are ids. With --restore, cells go back into the study's folder; `finetune` uses those whose settings, data and
weights are those of the plan, and makes the others. Loss curves are not kept.

\b
Examples:
  vesalius keep results/hippocampus docs/results/hippocampus
  vesalius keep results/hippocampus docs/results/hippocampus --restore
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.folder import StudyFolder


def run(
    folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/hippocampus.")],
    kept: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the small files.")],
    back: Annotated[bool, typer.Option("--restore", help="Put kept cells back into the study's folder.")] = False,
) -> None:
    from pipeline.plan import read_plan
    from pipeline.transfer.kept import keep, restore

    plan, where = read_plan(folder)
    if back and not kept.is_dir():
        raise ValueError(f"{kept}: there is no such folder; `vesalius keep {folder} {kept}` makes it")
    counts = restore(plan, where, kept) if back else keep(plan, where, kept)
    if not back:
        write_beside(plan.study, where, kept)
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    typer.echo(f"keep: {sum(counts.values())} cells {'put back' if back else f'in {kept}'} ({told or 'none'})")


def write_beside(study: dict[str, Any], where: StudyFolder, kept: Path) -> None:
    """The verdict, as it stands and as a page, and what the study cost."""
    from pipeline.files import read_json, write_json, write_text
    from pipeline.reports.markdown import verdict_markdown

    spent = cost(where.benchmarks)
    write_json(kept / "cost.json", spent)
    words = [f"# {study['name']}", study["description"], "It is not finished: there is no verdict yet."]
    if where.verdict.exists():
        for path in (where.verdict, where.root / "verdict.json"):
            shutil.copyfile(path, kept / path.name)
        words[2] = verdict_markdown(read_json(where.root / "verdict.json"))
    hours = f"{spent['core_hours']} hours of one core" if spent["stages"] else "Called by hand, so that nobody took its hours"
    words.append(f"{hours}; {spent['machine']['processor']}, PyTorch {spent['versions']['torch']}.")
    write_text(kept / "README.md", "\n\n".join(word.strip() for word in words if word) + "\n")


def cost(benchmarks: Path) -> dict[str, Any]:
    """Where and for how long the study ran."""
    from importlib.metadata import version

    from pipeline import __version__
    from pipeline.tracking.costs import processor, stage_costs

    stages = [{**asdict(item), "seconds": round(item.seconds, 1)} for item in stage_costs(benchmarks)]
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"vesalius": __version__, "python": platform.python_version(), "torch": version("torch")},
        "stages": stages,
        "core_hours": round(sum(stage["seconds"] for stage in stages) / 3600, 2),
    }
