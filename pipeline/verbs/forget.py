"""Remove a subject from a study, and list the runs that used it.

SUBJECT is a subject_id, or the user's own name of the subject, which is looked up in the private crosswalk. The subject is first noted in
forgotten.txt of the study's private folder, so that `index` does not bring it back; then its rows leave every table (shards, inventory,
quarantine, manifest, twins, embeddings, lexicons, crosswalk) and its volumes leave the store. A call that was interrupted is
finished by the same call. What a run has learned cannot be taken out of its weights: those runs are listed, for you to remove. Listed too
are the transfers that have figures of the subject, which running the study makes anew.

\b
Examples:
  vesalius forget results/demo k3v5q2wz7d4x6yab
  vesalius forget results/demo "patient 7"
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.folder import StudyFolder


def run(
    folder: Annotated[Path, typer.Argument(help="The study's folder, such as results/demo.")],
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="A subject_id, or your own name of the subject.")],
) -> None:
    from pipeline.plan import read_plan
    from pipeline.volumes.store import Store

    plan, where = read_plan(folder)
    subject_id = find_subject(where, subject)
    note_forgotten(where, subject_id)
    ids = ids_of(where, subject_id, plan.study["channels"])
    changed = [path for path in tables(where) if drop_rows(path, ids)]
    store = Store(where.store)
    volumes = sorted(ids & store.names())
    for scan in volumes:
        store.remove(scan)
    drop_from_crosswalk(where, subject_id)
    typer.echo(f"forget: {subject_id}: {len(volumes)} volumes left the store, and its rows left {len(changed)} tables")
    used = runs_with(where, subject_id)
    typer.echo(f"forget: {len(used)} runs used it{'; remove their folders and run the study again:' if used else ''}")
    for path in used:
        typer.echo(f"  {path}")
    judged = transfers_with(where, ids)
    typer.echo(
        f"forget: {len(judged)} transfers were tuned or tested on it{'; running the study again makes them anew:' if judged else ''}"
    )
    for path in judged:
        typer.echo(f"  {path}")


def find_subject(where: StudyFolder, subject: str) -> str:
    """The subject_id of an id or of the user's own name; nobody, or several of one name, is a ``ValueError``."""
    from pipeline.scans.identity import read_crosswalk, read_forgotten

    crosswalk = read_crosswalk(where)
    known = set(crosswalk["subject_id"]) | read_forgotten(where)
    if subject and subject in known:
        return subject
    named = sorted(set(crosswalk.loc[crosswalk["subject"] == subject, "subject_id"]) - {""})
    if len(named) != 1:
        found = (
            f"is the name of {len(named)} subjects ({', '.join(named)}); give one of these ids" if named else "is no subject of this study"
        )
        raise ValueError(f"SUBJECT: {subject!r} {found}")
    return named[0]


def note_forgotten(where: StudyFolder, subject_id: str) -> None:
    """Adds the subject to the private list that `index` honours."""
    from pipeline.files import replacing
    from pipeline.scans.identity import read_forgotten, study_private

    with replacing(study_private(where) / "forgotten.txt") as temporary:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600))
        temporary.write_text("".join(f"{name}\n" for name in sorted(read_forgotten(where) | {subject_id})))


def ids_of(where: StudyFolder, subject_id: str, channels: list[str] | None) -> set[str]:
    """The subject's own id and those of its exams, scans, volumes and files, wherever they are still written."""
    from pipeline.files import digest_of
    from pipeline.scans.identity import read_crosswalk

    ids, exams = {subject_id}, set()
    for frame in [read_crosswalk(where), *(frame for path in tables(where) if (frame := read(path)) is not None)]:
        if "subject_id" in frame:
            rows = frame[frame["subject_id"] == subject_id]
            ids |= {value for key in ("scan_id", "file_id") if key in rows for value in rows[key]}
            exams |= set(rows["exam_id"]) if "exam_id" in rows else set()
    ids |= {digest_of([exam, channels])[:16] for exam in exams} if channels else set()
    return ids - {""}


def tables(where: StudyFolder) -> list[Path]:
    """Every table of a study that may name a scan or a subject."""
    single = [where.inventory, where.quarantine, where.root / "twins.tsv", where.manifest, where.lexicon_all]
    many = [
        path
        for pattern in ("shards/*.tsv", "shards/*.parquet", "embeddings/*.parquet", "lexicons/*.parquet")
        for path in where.root.glob(pattern)
    ]
    return [path for path in [*single, *sorted(many)] if path.exists()]


def read(path: Path):
    """A table as it is, or None if it has no header."""
    import pandas as pd

    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) if path.stat().st_size else None


def drop_rows(path: Path, ids: set[str]) -> bool:
    """Takes the rows out that name any of the ids; a table without such rows is not touched."""
    from pipeline.files import write_table

    frame = read(path)
    if frame is None:
        return False
    keys = [key for key in ("subject_id", "scan_id", "file_id", "scan_a", "scan_b") if key in frame]
    theirs = frame[keys].isin(ids).any(axis=1)
    if not theirs.any():
        return False
    kept = frame[~theirs].reset_index(drop=True)
    if "twin_of" in kept:
        kept["twin_of"] = kept["twin_of"].where(~kept["twin_of"].isin(ids), "")
    if path.suffix == ".parquet":
        write_table(path, lambda temporary: kept.to_parquet(temporary, index=False))
    else:
        write_table(path, lambda temporary: kept.to_csv(temporary, sep="\t", index=False))
    return True


def drop_from_crosswalk(where: StudyFolder, subject_id: str) -> None:
    from pipeline.labels.names import forget_names
    from pipeline.scans.identity import read_crosswalk, write_crosswalk

    crosswalk = read_crosswalk(where)
    forget_names(where, set(crosswalk.loc[crosswalk["subject_id"] == subject_id, "file_id"]))
    write_crosswalk(where, crosswalk[crosswalk["subject_id"] != subject_id].to_dict("records"))


def runs_with(where: StudyFolder, subject_id: str) -> list[Path]:
    """Folders of the runs whose pool had the subject."""
    from pipeline.files import read_json

    found = sorted((where.root / "runs").glob("*/run.json"))
    return [path.parent for path in found if subject_id in read_json(path).get("subjects", ())]


def transfers_with(where: StudyFolder, ids: set[str]) -> list[Path]:
    """Folders of the transfers that have figures of any of its scans."""
    import pandas as pd

    found = sorted((where.root / "transfers").glob("*/cases.parquet"))
    return [path.parent for path in found if pd.read_parquet(path, columns=["scan_id"])["scan_id"].isin(ids).any()]
