"""The command line: ``vesalius VERB``. A verb is a file in ``pipeline/verbs``; it is imported only when it is called."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click
import typer

VERBS = Path(__file__).parent / "verbs"


class Verbs(click.Group):
    """A command group whose commands are the files of a folder; listing them imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(path.stem for path in VERBS.glob("*.py") if not path.stem.startswith("_"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"pipeline.verbs.{name}")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name=name, help=module.__doc__)(module.run)
        return typer.main.get_command(app)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, _summary(VERBS / f"{name}.py")) for name in self.list_commands(ctx)]
        if not rows:
            return
        with formatter.section("Verbs"):
            formatter.write_dl(rows)


def _summary(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n")[0]


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vesalius")
def main() -> None:
    """Vesalius: from a folder of scans to a pretrained 3D encoder and an honest transfer verdict."""


def entry() -> Any:
    """Runs a verb; what the user can mend is one message and exit code 1, not a traceback (VESALIUS_DEBUG=1 shows it)."""
    try:
        main(prog_name="vesalius", standalone_mode=True)
    except (ValueError, OSError) as error:
        if os.environ.get("VESALIUS_DEBUG"):
            raise
        click.echo(f"vesalius: {_words(error)}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("vesalius: stopped; the same command continues where it was", err=True)
        sys.exit(130)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        remedy = "; free some space and call again" if error.errno == 28 else ""
        return f"{error.filename or 'a file'}: {error.strerror}{remedy}"
    return str(error)


if __name__ == "__main__":
    entry()
