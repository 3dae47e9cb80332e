"""Find visual words: places that recur from subject to subject, by a run's embeddings.

Reads plan.json, manifest.parquet, the store and embeddings/RUN.parquet. Writes

\b
lexicons/LEXICON.parquet  word_id, scan_id, x_mm, y_mm, z_mm (RAS+), size_mm, confidence, split: a row an instance
lexicons/LEXICON.json     figures: instances, overlaps, how alike instances of a word are, and how far off where truth is known

With --merge every lexicon of the plan goes into lexicon.parquet, with its name in the column `lexicon`.

\b
Examples:
  vesalius discover results/demo demo_restoration-s0-0123456789
  vesalius discover results/demo --merge
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from pipeline.folder import StudyFolder
    from pipeline.plan import LexiconPlan, Plan


def run(
    folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")],
    name: Annotated[str | None, typer.Argument(metavar="LEXICON", help="A lexicon of plan.json.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Put all lexicons into one table.")] = False,
) -> None:
    from pipeline.lexicon.table import merge_lexicons
    from pipeline.plan import read_plan

    plan, where = read_plan(folder)
    if merge == (name is not None):
        raise ValueError("discover: name one lexicon of plan.json, or say --merge for all of them")
    if merge:
        merged = merge_lexicons({item.lexicon: where.lexicon(item.lexicon) for item in plan.lexicons}, where.lexicon_all)
        typer.echo(f"discover: {where.lexicon_all} has {len(merged)} instances of {merged['lexicon'].nunique()} lexicons")
        return
    figures = find_words(plan, where, plan.lexicon(name))
    typer.echo(f"{name}: {figures['num_words']} words, {figures['num_instances']} instances")
    typer.echo(
        f"  pairs of crops that overlap by less than half: {figures['share_pairs_apart']:.1%}; correlation within words "
        f"{figures['correlation_within']:.3f}, between words {figures['correlation_between']:.3f}; purity {figures['purity']:.3f}"
    )
    if "word_error_mm" in figures:
        typer.echo(
            f"  true median error: words {figures['word_error_mm']:.2f} mm, body coordinates {figures['body_error_mm']:.2f} mm, "
            f"equal array indices {figures['index_error_mm']:.2f} mm ({figures['instances_with_truth']} instances)"
        )


def find_words(plan: Plan, where: StudyFolder, lexicon: LexiconPlan) -> dict[str, float]:
    """Writes one lexicon and its figures; returns the figures."""
    import numpy as np
    import torch

    from pipeline.files import write_json
    from pipeline.lexicon.discovery import Search, discover
    from pipeline.lexicon.figures import lexicon_figures, word_errors
    from pipeline.lexicon.table import write_lexicon
    from pipeline.lexicon.truth import TemplateTruth
    from pipeline.progress import Progress
    from pipeline.volumes.store import Store

    torch.set_num_threads(1)
    words = plan.recipe_value(lexicon.recipe).words
    rows, embeddings = embedded_rows(where, lexicon.run)
    seed = plan.run(lexicon.run).seed
    search = Search(words.num_words, words.sizes_vox, words.neighbours, words.min_confidence, seed)
    store = Store(where.store)
    with Progress("discover", words.num_words, unit="word") as progress:
        table, found, dropped = discover(rows, np.stack(embeddings), store, search, progress.advance)
    figures = {
        **lexicon_figures(table, rows, found, store),
        **word_errors(table, rows, found, TemplateTruth(where)),
        "instances_left_out_for_overlap": dropped,
        "neighbours": int(np.ceil(words.neighbours * (rows["split"] == "train").sum() - 1e-9)),
        "neighbours_validation": int(np.ceil(words.neighbours * (rows["split"] == "validation").sum() - 1e-9)),
        "scans": len(rows),
    }
    write_json(where.lexicon(lexicon.lexicon).with_suffix(".json"), figures)
    write_lexicon(table, where.lexicon(lexicon.lexicon))
    return figures


def embedded_rows(where: StudyFolder, run: str) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Manifest rows that have an embedding, sorted by scan_id, and the embeddings."""
    import pandas as pd

    from pipeline.manifest import read_manifest

    path = where.embeddings(run)
    if not path.exists():
        raise ValueError(f"{path}: there are no embeddings; run `vesalius embed {where.root} {run}` first")
    known = pd.read_parquet(path).set_index("scan_id")["embedding"]
    rows = read_manifest(where.manifest)
    gone = sorted(set(known.index) - set(rows["scan_id"]))
    if gone:
        raise ValueError(f"{path}: {len(gone)} of its scans, such as {gone[0]}, are not in the manifest; run `vesalius embed` again")
    rows = rows[rows["scan_id"].isin(known.index)].reset_index(drop=True)
    return rows, [known[scan] for scan in rows["scan_id"]]
