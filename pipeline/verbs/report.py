"""Write the study's report: one page with the verdict, the data, what was refused, the words, the curves and the cost.

Reads the whole study folder. Writes report.html (self-contained: no script, no request) and figures/*.svg.

\b
Examples:
  vesalius report results/demo
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")]) -> None:
    from pipeline.plan import read_plan
    from pipeline.reports.page import write_report

    plan, where = read_plan(folder)
    typer.echo(f"report: {write_report(plan, where)}")
