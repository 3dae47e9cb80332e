"""Hash every stored volume again and compare with what was written.

Reads the store and, where it is there, manifest.parquet. Prints one line for each file that is damaged, missing or not the manifest's, and
exits with 1 if there is any; remove the scans that it names (`vesalius preprocess` makes them again).

\b
Examples:
  vesalius verify results/demo
  vesalius verify results/demo --remove
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")],
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove damaged scans from the store, so that preprocess makes them again.")
    ] = False,
) -> None:
    from pipeline.plan import read_plan
    from pipeline.progress import Progress
    from pipeline.volumes.store import Store

    _, where = read_plan(folder)
    store = Store(where.store)
    expected = _digests(where.manifest)
    scans = sorted(store.names() | expected.keys())
    damaged: dict[str, list[str]] = {}
    with Progress("verify", total=max(1, len(scans)), unit="scan") as progress:
        for scan in scans:
            problems = store.verify(scan)
            if not problems and scan in expected and store.meta(scan)["digest"] != expected[scan]:
                problems = [f"{scan}: is not the volume that the manifest lists; run `vesalius split {where.root}` again"]
            if problems:
                damaged[scan] = problems
            progress.advance()
    for scan, problems in damaged.items():
        typer.echo("\n".join(problems))
        if remove:
            store.remove(scan)
    typer.echo(
        f"verify: {len(scans) - len(damaged)} of {len(scans)} volumes are whole{', the others were removed' * (remove and bool(damaged))}"
    )
    if damaged:
        raise typer.Exit(1)


def _digests(manifest: Path) -> dict[str, str]:
    from pipeline.manifest import read_manifest

    if not manifest.exists():
        return {}
    frame = read_manifest(manifest)
    return dict(zip(frame["scan_id"], frame["digest"], strict=True))
