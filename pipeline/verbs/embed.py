"""Give every training and validation scan one embedding by a run's encoder.

Reads plan.json, manifest.parquet, the store and runs/RUN. Test scans and scans that repeat another one are left out. Writes
embeddings/RUN.parquet, a row a scan, sorted by scan_id:

\b
scan_id    the scan
split      train or validation
num_crops  crops of the run's size that cover its body
embedding  list of float32: mean over these crops of the encoder's pooled features

\b
Examples:
  vesalius embed results/demo demo_restoration-s0-0123456789
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd


def run(
    folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")],
    name: Annotated[str, typer.Argument(metavar="RUN", help="A pretraining run of plan.json that has finished.")],
) -> None:
    import torch

    from pipeline.files import write_table
    from pipeline.lexicon.embedding import embed
    from pipeline.manifest import read_manifest
    from pipeline.plan import read_plan
    from pipeline.progress import Progress
    from pipeline.training.encoder import load_encoder
    from pipeline.training.pretraining import pool
    from pipeline.volumes.store import Store

    plan, where = read_plan(folder)
    home = where.run(plan.run(name).run)
    if not (home / "encoder.json").exists():
        raise ValueError(f"{home}: there is no encoder yet; run `vesalius pretrain {folder} {name}` first")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    network, contract = load_encoder(home)
    network = network.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = scans_to_embed(*pool(read_manifest(where.manifest), plan.study_value()))
    table = rows[["scan_id", "split"]].copy()
    found = []
    with Progress("embed", len(rows), unit="scan") as progress:
        for item in embed(network, Store(where.store), rows, tuple(contract["size_vox"])):
            found.append(item)
            progress.advance()
    table["num_crops"], table["embedding"] = [count for count, _ in found], [vector.tolist() for _, vector in found]
    write_table(where.embeddings(name), lambda temporary: table.to_parquet(temporary, index=False))
    typer.echo(f"embed: {where.embeddings(name)} has {len(table)} scans, {network.widths[-1]} features each")


def scans_to_embed(train: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """Manifest rows of train and validation, sorted; neither test scans nor scans that repeat another one."""
    import pandas as pd

    rows = pd.concat([train, held_out])
    rows = rows[rows["split"].isin(("train", "validation")) & (rows["twin_of"] == "")]
    return rows.sort_values("scan_id", ignore_index=True)
