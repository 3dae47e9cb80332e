"""Keep a study's results as small files that may be committed; with --restore, put them back and go on from there.

Reads plan.json, transfers/*/search and cells, verdict.tsv, verdict.json, benchmarks. Writes into DIR

\b
TASK-INITIALISATION.json  its finished cells: settings, digests of data and weights, Dice of each validation and test scan and class
verdict.tsv, verdict.json as they stand in the study, if the verdict is made
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
from typing import Annotated, Any

import typer


def run(
    folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/hippocampus.")],
    kept: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the small files.")],
    back: Annotated[bool, typer.Option("--restore", help="Put kept cells back into the study's folder.")] = False,
) -> None:
    from pipeline.files import write_json
    from pipeline.plan import read_plan
    from pipeline.transfer.kept import keep, restore

    plan, where = read_plan(folder)
    if back and not kept.is_dir():
        raise ValueError(f"{kept}: there is no such folder; `vesalius keep {folder} {kept}` makes it")
    counts = restore(plan, where, kept) if back else keep(plan, where, kept)
    if not back:
        for path in (where.verdict, where.root / "verdict.json"):
            if path.exists():
                shutil.copyfile(path, kept / path.name)
        write_json(kept / "cost.json", cost(where.benchmarks))
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    typer.echo(f"keep: {sum(counts.values())} cells {'put back' if back else f'in {kept}'} ({told or 'none'})")


def cost(benchmarks: Path) -> dict[str, Any]:
    """Where and for how long the study ran."""
    from importlib.metadata import version

    from pipeline import __version__
    from pipeline.tracking.costs import stage_costs

    stages = [{**asdict(item), "seconds": round(item.seconds, 1)} for item in stage_costs(benchmarks)]
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"vesalius": __version__, "python": platform.python_version(), "torch": version("torch")},
        "stages": stages,
        "core_hours": round(sum(stage["seconds"] for stage in stages) / 3600, 2),
    }


def processor() -> str:
    """The model's name, as the system gives it."""
    known = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in known.read_text().splitlines() if line.startswith("model name")]
        if known.exists()
        else []
    )
    return names[0] if names else platform.processor() or "unknown"
