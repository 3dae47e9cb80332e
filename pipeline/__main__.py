"""The command line: ``vesalius VERB``. A verb is a file in ``pipeline/verbs``; it is imported only when it is called."""

from __future__ import annotations

import ast
import errno
import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline import __version__

VERBS = Path(__file__).parent / "verbs"
MAY_NOT = "; choose a place that you may write to (and read), or mend its permissions"
REMEDIES = {errno.ENOSPC: "; free some space and call again", errno.EACCES: MAY_NOT, errno.EPERM: MAY_NOT, errno.EROFS: MAY_NOT}


class Verbs(TyperGroup):
    """A command group whose commands are the files of a folder; listing them imports none."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return sorted(path.stem for path in VERBS.glob("*.py") if not path.stem.startswith("_"))

    def get_command(self, ctx: typer.Context, name: str) -> Any:
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"pipeline.verbs.{name}")
        verb = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
        verb.command(name=name, help=module.__doc__)(module.run)
        return typer.main.get_command(verb)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:
        self.commands = dict.fromkeys(self.list_commands(ctx))  # what Typer compares a misspelt verb with
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:
        rows = [(name, _summary(VERBS / f"{name}.py")) for name in self.list_commands(ctx)]
        if not rows:
            return
        with formatter.section("Verbs"):
            formatter.write_dl(rows)


def _summary(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n")[0]


app = typer.Typer(cls=Verbs, add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vesalius {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Vesalius: from a folder of scans to a pretrained 3D encoder and an honest transfer verdict."""


def entry() -> Any:
    """Runs a verb; what the user can mend is one message and exit code 1, not a traceback (VESALIUS_DEBUG=1 shows it)."""
    try:
        app(prog_name="vesalius")
    except (ValueError, OSError) as error:
        if os.environ.get("VESALIUS_DEBUG"):
            raise
        typer.echo(f"vesalius: {_words(error)}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("vesalius: stopped; the same command continues where it was", err=True)
        sys.exit(130)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}{REMEDIES.get(error.errno or 0, '')}"
    return str(error)


if __name__ == "__main__":
    entry()
