"""Pretrain one run of the plan: a recipe with a seed.

Reads plan.json, manifest.parquet, the store and, where the recipe uses words, its lexicon. Writes runs/RUN: run.json, journal.jsonl,
checkpoints, metrics.json, model.safetensors, encoder.json, encoder.safetensors. A run that was stopped continues from its newest
verified checkpoint; SIGTERM, SIGUSR1 and SIGUSR2 write one and exit with 75, Ctrl-C writes one and exits with 130.

Figures of the features' health stand in the journal; a collapse raises an alarm that says what to change (docs/health.md). Where the
study has a task, a probe of the frozen encoder on labelled training subjects is journalled too, and RUN/best holds the encoder that it
preferred.

On several GPUs --ranks, torchrun or srun starts one process each (docs/many_gpus.md). --ranks changes nothing about a run, and its exit
code is that of the processes.

\b
Examples:
  vesalius pretrain results/demo restoration-s0-0123456789
  vesalius pretrain results/demo restoration-s0-0123456789 --ranks 2
  srun --ntasks-per-node=4 --gpus-per-node=4 vesalius pretrain results/demo restoration-s0-0123456789
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def run(
    folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")],
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run of plan.json.")],
    ranks: Annotated[int, typer.Option(min=1, help="Processes that train together on this machine, one a GPU.")] = 1,
) -> None:
    from pipeline.plan import read_plan
    from pipeline.training.signals import listening

    plan, where = read_plan(folder)
    if ranks > 1:  # before PyTorch is imported, which this process does not need
        from pipeline.training.distributed.siblings import train_together

        command = [sys.executable, "-m", "pipeline", "pretrain", str(folder), plan.run(name).run]
        raise typer.Exit(train_together(command, ranks))
    with listening():
        from pipeline.training.distributed.launch import launched
        from pipeline.training.pretraining import pretrain
        from pipeline.transfer.probe import probe_of

        metrics = pretrain(plan, where, plan.run(name), lambda: probe_of(plan, where, name))
    if (place := launched()) is not None and place.rank > 0:
        return
    words = ", ".join(f"{key} {value:.4g}" for key, value in sorted(metrics.items()) if "/weighted" not in key)
    typer.echo(f"{name}: done; on held-out subjects {words or 'nothing was evaluated'}")
