"""Fine-tune one initialisation on a labelled task: every number of labels and every seed, in one process.

Reads plan.json, manifest.parquet, the store and the weights of the runs that the transfer starts from. Writes
transfers/TRANSFER: search.json (if the study searches), cells/*.json (one fine-tuning each, written as soon as it is done),
journal.jsonl, and last cases.parquet: Dice of every held-out scan and class. Called again after an interruption it goes on with the first
cell that is missing; a signal ends it with 75, Ctrl-C with 130. Refuses when a test or validation subject is among the training labels or
was pretrained on.

\b
Examples:
  vesalius finetune results/demo tissue-scratch-0123456789
  vesalius finetune results/demo tissue-transvw-0123456789
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")],
    name: Annotated[str, typer.Argument(metavar="TRANSFER", help="A transfer of plan.json.")],
) -> None:
    from pipeline.plan import read_plan
    from pipeline.training.signals import listening

    plan, where = read_plan(folder)
    with listening():
        from pipeline.transfer.finetune import finetune

        typer.echo(f"{name}: done; {finetune(plan, where, plan.transfer(name))}")
