"""Read every scan below a folder, or say why not: one NIfTI file for each volume that is right.

IN may hold anything: DICOM (with or without extensions), NIfTI, NRRD, MetaImage, BIDS, other files. Nothing of it is changed. Writes

\b
OUT/SCAN_ID.nii.gz   each accepted volume on its own grid: values after rescale (HU for CT), sform = qform, no text in the header
OUT/inventory.tsv    path, status, code, scan_id, file_id, flags (of a scan that is odd but right): a row for each file of IN. It names your
                     files, so only you may read it (0600); several scans of one file stand in scan_id with spaces between
OUT/quarantine.tsv   file_id, scan_id, stage, code, reason, remedy: what was refused, without paths
OUT/volumes.tsv      scan_id, source, sha256: what was written, so that a call that was stopped continues

\b
status is
  volume       part of a volume that was written
  companion    a segmentation, a structure set or a mask
  not_image    another kind of file, or one that belongs to no image
  quarantined  refused; `code` says why, docs/reasons.md what to do
  left_out     part of a scan that a --filter or --four-d first leaves out

Scan ids are hashes under your private key ($VESALIUS_PRIVATE, default ~/.vesalius). An OUT that exists is continued: a volume whose
source is unchanged is kept, and one that is refused now is removed. With --strict the exit code is 3 if any file was quarantined.

The volumes of a DICOM series are told apart, and all taken but for --four-d first; those of a 4-D file only with --four-d. A file with
several volumes is quarantined if all of them are refused; quarantine.tsv has a row for each that is. A NIfTI header that places its voxels
in two ways is refused without --placement.

\b
Examples:
  vesalius convert /archive/incoming out
  vesalius convert bids out --filter suffix=T1w --filter session=1
  vesalius convert /archive/incoming out --strict --four-d split --placement sform
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.scans.inventory import Found3D, Inventory
    from pipeline.scans.quarantine import Code

PRIVATE = ("path", "status", "code", "scan_id", "file_id", "flags")
PUBLIC = ("file_id", "scan_id", "stage", "code", "reason", "remedy")
VOLUMES = ("scan_id", "source", "sha256")


def run(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A folder of anything; its subfolders too.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder for the volumes; made, or continued.")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if anything was quarantined.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--filter", metavar="ENTITY=LABEL", help="Only scans of this BIDS entity (or modality).")
    ] = None,
    placement: Annotated[
        str | None, typer.Option(help="NIfTI files whose sform and qform are both coded: which of them places the voxels (sform, qform).")
    ] = None,
    four_d: Annotated[
        str, typer.Option("--four-d", help="4-D files (NIfTI, NRRD, MetaImage): refuse, take the first volume, or split.")
    ] = "refuse",
) -> None:
    from pipeline.progress import Progress
    from pipeline.scans.folders.entities import matches, parse_filters
    from pipeline.scans.identity import make_identity
    from pipeline.scans.inventory import Place, take_stock

    filters = parse_filters(only or [])
    if four_d not in ("refuse", "first", "split"):
        raise ValueError(f"--four-d: {four_d!r} is none of refuse, first, split")
    if placement not in (None, "sform", "qform"):
        raise ValueError(f"--placement: {placement!r} is none of sform, qform")
    anchor = checked_folders(source, out)
    with Progress("look", total=max(1, sum(1 for path in source.rglob("*") if not path.is_dir())), unit="file") as progress:
        found = take_stock([Place(source, anchor, four_d=four_d, placement=placement or "")], make_identity(None), tick=progress.advance)
    wanted = [scan for scan in found.scans if matches(filters, scan.paths[0].relative_to(source).as_posix(), scan.modality)]
    present = {scan.scan_id for scan in found.scans}
    refused = convert(out, present, wanted)
    left_out = present - {scan.scan_id for scan in wanted}
    counts = account(out, found, left_out, refused)
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    typer.echo(f"convert: {len(wanted) - len(refused)} volumes in {out}; {sum(counts.values())} files ({told or 'none'})")
    if strict and counts["quarantined"]:
        raise typer.Exit(3)


def checked_folders(source: Path, out: Path) -> str:
    """What ids know of the place of files: its absolute path. Raises ``ValueError`` where IN and OUT don't go together."""
    if not source.is_dir():
        raise ValueError(f"{source}: there is no such folder; IN must be a folder that holds the scans")
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out}: lies inside {source}, so its volumes would be taken for scans; choose a folder outside")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is not a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "volumes.tsv").exists():
        raise ValueError(f"{out}: holds other files; choose an empty folder, or one that `vesalius convert` made")
    return source.resolve().as_posix()


def convert(out: Path, present: set[str], wanted: list[Found3D]) -> dict[str, Code]:
    """Writes what is not there yet of the scans wanted; scan_id -> code of what was refused. ``present``: ids of all scans."""
    from pipeline.progress import Progress
    from pipeline.scans.content import content_of
    from pipeline.scans.quarantine import Code, Refused
    from pipeline.volumes.jobs import form_of

    record, refused = kept(out, present), {}
    log = out / "volumes.tsv"
    with Progress("convert", total=max(1, len(wanted)), unit="scan") as progress:
        for scan in wanted:
            try:
                content = content_of([*scan.paths, *scan.detached])
                source = f"{content}-{form}" if (form := form_of(scan.kind)) else content
                if record.get(scan.scan_id, ("",))[0] != source:
                    sha = write_scan(out, scan)
                    if content_of([*scan.paths, *scan.detached]) != content:
                        raise Refused(Code.CHANGED)
                    record[scan.scan_id] = (source, sha)
                    with log.open("a") as stream:
                        stream.write(f"{scan.scan_id}\t{source}\t{sha}\n")
            except (Refused, FileNotFoundError) as error:
                refused[scan.scan_id] = error.code if isinstance(error, Refused) else Code.CHANGED
                record.pop(scan.scan_id, None)
                (out / f"{scan.scan_id}.nii.gz").unlink(missing_ok=True)
            progress.advance()
    write_record(log, record)
    return refused


def kept(out: Path, present: set[str]) -> dict[str, tuple[str, str]]:
    """scan_id -> (digest of its sources, sha256) of volumes that earlier calls wrote; those whose scan is gone are removed."""
    out.mkdir(parents=True, exist_ok=True)
    log, record = out / "volumes.tsv", {}
    for line in log.read_text().splitlines()[1:] if log.exists() else ():
        if line.count("\t") == 2 and len(sha := line.split("\t")[2]) == 64:  # a torn last line does not count
            scan, content, sha = line.split("\t")
            if scan in present and (out / f"{scan}.nii.gz").exists():
                record[scan] = (content, sha)
            else:
                (out / f"{scan}.nii.gz").unlink(missing_ok=True)
    write_record(log, record)
    return record


def write_record(log: Path, record: dict[str, tuple[str, str]]) -> None:
    from pipeline.scans.accounts import write_rows

    write_rows(log, VOLUMES, [dict(zip(VOLUMES, (scan, *record[scan]), strict=True)) for scan in sorted(record)])


def write_scan(out: Path, scan: Found3D) -> str:
    """Reads a scan and writes its volume; sha256 of the file. Raises ``Refused``."""
    from pipeline.files import digest
    from pipeline.scans.quarantine import Code, Refused
    from pipeline.scans.reading import read_scan
    from pipeline.volumes.nifti_file import write_nifti

    volume = read_scan(scan.kind, scan.paths)
    if volume.num_channels != 1:
        raise Refused(Code.DIMENSIONS)
    path = out / f"{scan.scan_id}.nii.gz"
    write_nifti(path, volume.voxels[0], volume.grid)
    return digest(path)


def account(out: Path, found: Inventory, left_out: set[str], refused: dict[str, Code]) -> Counter[str]:
    """Both tables; how many files have each status."""
    from pipeline.scans.accounts import private_rows, refused_rows, write_rows
    from pipeline.scans.flags import united
    from pipeline.scans.quarantine import quarantine_row

    counts, late_rows = Counter(), []

    def rows() -> Iterator[dict[str, str]]:
        for file in found.files.ordered("relative"):
            status, code = file.status, file.code
            late = {scan: refused[scan] for scan in file.scan_ids if scan in refused} if status == "volume" else {}
            if late and len(late) == len(file.scan_ids):
                status, code = "quarantined", late[file.scan_ids[0]]
            elif status == "volume" and all(scan in left_out and not (out / f"{scan}.nii.gz").exists() for scan in file.scan_ids):
                status = "left_out"
            flags = united(scan.flags for scan_id in file.scan_ids if (scan := found.scan(scan_id)) is not None)
            row = file.relative, status, code.value if code else "", file.scan_id, file.file_id, flags
            counts[status] += 1
            late_rows.extend(quarantine_row("convert", late[scan], file.file_id, scan) for scan in late)
            yield dict(zip(PRIVATE, row, strict=True))

    private_rows(out / "inventory.tsv", PRIVATE, rows())
    order = itemgetter("file_id", "scan_id")
    write_rows(out / "quarantine.tsv", PUBLIC, merge(sorted(late_rows, key=order), refused_rows(found), key=order))
    return counts
