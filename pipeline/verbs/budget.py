"""Run some steps of a recipe here, and say what a whole run will take: hours, memory, disk, and what to ask a cluster for.

With the recipe alone the scans are made up; with --study they are read from that study's store, so that reading is included. Nothing is
kept. --check runs twice as many steps again, with evaluations and checkpoints, and compares the forecast of that run with its clock.
--ranks, torchrun or srun measure several processes together, and so what they wait for each other's gradients.

\b
Examples:
  vesalius budget configs/recipes/transvw.yaml
  vesalius budget configs/recipes/moco.yaml --study results/hippocampus --steps 30
  vesalius budget configs/recipes/moco.yaml --json --check
  vesalius budget configs/recipes/moco.yaml --ranks 2
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.training.budget.forecast import Forecast
    from pipeline.training.budget.measure import Measured


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe's YAML, such as configs/recipes/transvw.yaml.")],
    study: Annotated[Path | None, typer.Option(help="A study's folder whose store is read, such as results/demo.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps to measure; three more come before them.")] = 20,
    check: Annotated[bool, typer.Option("--check", help="Compare the forecast with a real run here.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that are measured together on this machine, one a GPU.")] = 1,
) -> None:
    import json
    import tempfile
    from dataclasses import asdict

    from pipeline.configuration import read_config
    from pipeline.recipe import Recipe, share
    from pipeline.training.budget.forecast import forecast

    value: Recipe = read_config(recipe, Recipe)
    share(value.training.batch, value.training.micro_batch, ranks)
    if ranks > 1:  # before PyTorch is imported, which this process does not need
        from pipeline.training.distributed.siblings import train_together

        options = [*(["--study", str(study)] if study else []), *(["--check"] if check else []), *(["--json"] if as_json else [])]
        command = [sys.executable, "-m", "pipeline", "budget", str(recipe), "--steps", str(steps), *options]
        raise typer.Exit(train_together(command, ranks))
    from pipeline.training.budget.trial import checked, tried
    from pipeline.training.distributed.ranks import joined

    with tempfile.TemporaryDirectory(prefix="vesalius_budget_") as scratch, joined(value.training.wait_s) as own:
        measured, settled = tried(value, study, steps, Path(scratch), own)
        compared = checked(settled, study, 2 * steps, measured, Path(scratch), own) if check else None
    if measured is None:
        return
    found = forecast(measured, settled.training, value.name)
    if as_json:
        typer.echo(json.dumps({"recipe": value.name, "measured": asdict(measured), "forecast": asdict(found), "check": compared}, indent=1))
        return
    _show(value.name, measured, found, compared)


def _show(name: str, measured: Measured, found: Forecast, compared: dict[str, float] | None) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140, highlight=False)
    for title, rows in _tables(measured, found).items():
        table = Table(show_header=False, title=f"{name}: {title}", title_justify="left", box=SIMPLE)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"On several GPUs: {found.assumption}.", soft_wrap=True)
    console.print("Slurm, through the workflow or by a script of your own:")
    for line in found.slurm:
        console.print(f"  {line}", soft_wrap=True, markup=False)
    if compared:
        console.print(
            f"Check: {compared['steps']:.0f} steps took {compared['real_s']:.1f} s, forecast {compared['forecast_s']:.1f} s "
            f"({compared['error']:+.1%}); in CPU time {compared['real_cpu_s']:.1f} s, forecast {compared['forecast_cpu_s']:.1f} s "
            f"({compared['error_cpu']:+.1%})."
        )


def _tables(measured: Measured, found: Forecast) -> dict[str, list[tuple[Any, ...]]]:
    from pipeline.training.budget.measure import BESIDE
    from pipeline.volumes.forecast import told

    fit, step_s, achieved = measured.fit, measured.step_s, measured.achieved_flops
    parts = {stage: value for stage, value in measured.stages.items() if stage not in BESIDE}
    lone = [("all-reduce", "one process: not measured (--ranks)", "")] if measured.ranks == 1 else []
    each = f", in each of {measured.ranks} processes" if measured.ranks > 1 else ""
    beside = ", ".join(f"{stage} {1000 * measured.stages[stage]:.1f} ms" for stage in BESIDE)
    return {
        "speed": [
            ("device", f"{measured.device}, {measured.precision}, {measured.threads} CPU threads{each}"),
            ("steps", f"{1 / step_s:.3g} a second, {measured.batch / step_s:.3g} samples a second (mean of {measured.steps})"),
            ("work", f"{measured.flop / 1e9:.4g} GFLOP a step, {achieved / 1e9:.4g} GFLOP/s achieved{each}"),
            ("share of peak", f"{achieved / measured.peak_flops:.1%} of {measured.peak_flops / 1e9:.4g} GFLOP/s"),
            ("peak", measured.peak_source),
        ],
        "where a step's time goes": [
            *((stage, f"{1000 * value:.1f} ms", f"{value / step_s:.1%}") for stage, value in parts.items()),
            *lone,
            ("beside it", beside, ""),
        ],
        "memory": [
            ("micro-batch", f"{fit.micro_batch} crops at once, {fit.accumulation} times a step ({fit.how})"),
            ("of a step", f"{told(fit.peak_bytes)} of {told(fit.free_bytes)}"),
            ("of the host", told(measured.host_bytes)),
        ],
        "forecast": [
            *((f"on {gpus} such", f"{hours:.3g} hours for {found.steps} steps") for gpus, hours in found.hours.items()),
            ("evaluation, checkpoint", f"{measured.evaluate_s:.2f} s and {measured.save_s:.2f} s each"),
            ("disk", f"{told(found.disk_bytes)} at the end, {told(found.disk_peak_bytes)} while it runs"),
        ],
    }  # fmt: skip
