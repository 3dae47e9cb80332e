"""Compare every initialisation with training from scratch: one table, one sentence each.

Reads plan.json, manifest.parquet, runs/*/run.json and every transfers/*/cases.parquet. Writes verdict.tsv (columns: see
pipeline/transfer/verdict.py) and verdict.json (curves, labels saved, detectable differences, what the search chose, warnings).
Only the rows with planned = true are confirmatory; p_holm is corrected over all of them.

\b
Examples:
  vesalius verdict results/demo
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd


def run(folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")]) -> None:
    from pipeline.plan import read_plan
    from pipeline.transfer.table import make_verdict

    plan, where = read_plan(folder)
    if not plan.transfers:
        raise ValueError(f"{where.plan}: the study has no tasks, so there is nothing to compare; add `tasks` to it, and run it again")
    table, beside = make_verdict(plan, where)
    _show(table, beside)
    typer.echo(f"verdict: {where.verdict}")


def show_verdict(where: Path) -> None:
    """Prints the verdict that stands in a study's folder."""
    import pandas as pd

    from pipeline.files import read_json

    _show(pd.read_csv(where / "verdict.tsv", sep="\t", dtype={"num_labels": str}), read_json(where / "verdict.json"))


def _show(table: pd.DataFrame, beside: dict[str, Any]) -> None:
    """The table, then what it says; on a terminal with the planned rows in bold."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=140, highlight=False)
    columns = ("task", "initialisation", "labels", "seeds", "cases", "Dice", "difference", "95 % interval", "p", "p Holm", "won/tied/lost")
    shown = Table(*columns, box=SIMPLE, title="Verdict: test Dice, paired with scratch", title_justify="left")
    for row in table.to_dict("records"):
        shown.add_row(*_words(row), style="bold" if row["planned"] else None)
    console.print(shown)
    for value in beside["tasks"].values():
        console.print(f"Beside every size: {value['num_validation_labels']} labelled validation scans for tuning.", soft_wrap=True)
    for line in [*beside["stamps"], *beside["sentences"]]:
        console.print(line, soft_wrap=True, markup=False)


def _words(row: dict[str, Any]) -> list[str]:
    against = row["diff_mean"] is not None and row["diff_mean"] == row["diff_mean"]
    figures = [
        f"{row['diff_mean']:+.3f}", f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f}", f"{row['p_raw']:.3g}",
        f"{row['p_holm']:.3g}" if row["planned"] else "-", f"{row['wins']:.0f}/{row['ties']:.0f}/{row['losses']:.0f}",
    ] if against else ["-"] * 5  # fmt: skip
    first = [row["task"], row["initialisation"], str(row["num_labels"]), str(row["num_seeds"]), str(row["num_cases"])]
    return [*first, f"{row['dice_mean']:.3f}", *figures]
