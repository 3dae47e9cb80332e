"""Look at your scans and labels; write a study and a task that fit them.

Counts every file below the folders; headers are read of all DICOM files and of up to 200 images, voxels of up to 200 label files. Writes
STUDIES/NAME.yaml and TASKS/NAME.yaml below --into, with what was found and why each value was chosen in comments. An existing file is
never overwritten.

\b
A label volume belongs to the image of the same name or place (case01_seg and case01, case01/mask and case01/image, labels/case01 and
case01_CT), to the exam whose sequences then enter together as channels (case01_CT, case01_PT), or to the DICOM series in the folder of its
name: docs/labels.md. Masks of one structure each (case01/segmentations/liver, below the folder of case01/ct) become a task with a class for
each of their names. --labels may name the folder of the scans too. In a folder of nnU-Net or the Decathlon dataset.json says which are the
labels, what they are called, and what the channels are; in one of nnssl pretrain_data.json says whose the images are. DICOM segmentations
and structure sets, among the scans or in the folder of labels, say themselves whose they are, and what their structures are called. Without
labels the study only pretrains.

\b
Examples:
  vesalius init scans --labels labels
  vesalius init /archive/ct --labels /archive/ct_labels --name liver
  vesalius init brats --labels brats
  vesalius init totalsegmentator --labels totalsegmentator
  vesalius init nnUNet_raw/Dataset003_Liver
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.cohorts._described import Described
    from pipeline.cohorts._drawn import Dicom, Drawn
    from pipeline.cohorts._looked import Aside
    from pipeline.cohorts._masks import MaskSet
    from pipeline.cohorts._suggest import Found, Image

METAIMAGE = (".mha", ".mhd", ".nrrd", ".nhdr")
GENERAL = re.compile(r"(images?|scans?|data|nifti|dicom)(tr)?", re.IGNORECASE)


def run(
    scans: Annotated[Path, typer.Argument(metavar="SCANS", help="Folder of scans: NIfTI, MetaImage or DICOM, in any subfolders.")],
    labels: Annotated[Path | None, typer.Option(help="Folder of label volumes; default: what dataset.json says.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study; default: that of the folder of scans.")] = None,
    into: Annotated[Path, typer.Option(help="Folder for studies/NAME.yaml and tasks/NAME.yaml.")] = Path("configs"),
) -> None:
    from pipeline.cohorts._described import describe
    from pipeline.cohorts._drawn import drawn_task_yaml
    from pipeline.cohorts._looked import find_images
    from pipeline.cohorts._masks import masks_task_yaml
    from pipeline.cohorts._written import study_yaml, task_yaml

    name = _name(scans, name)
    study, task = _new_files(into, name)
    described = describe(scans)
    folder = labels or described.labels
    images, aside = find_images(scans, folder)
    drawn = find_drawn(folder, images, aside.dicom)
    few = drawn is not None and folder is None and len({image.subject for image in drawn.labelled}) < 3
    found, masks = look(scans, folder, described, images, None if few else drawn)
    texts = {study: study_yaml(found, name, study, task)}
    if masks:
        texts[task] = masks_task_yaml(found, masks, name, task)
    elif found.labels:
        texts[task] = drawn_task_yaml(found, drawn, name, task, folder) if drawn else task_yaml(found, name, task)
    write(texts, study)
    wrote = f"{study} and {task}; look at them, they say" if found.labels else f"{study}; look at it, it says"
    typer.echo(f"init: wrote {wrote} what was found and why each value was chosen")
    for line in told_aside(scans, found, aside, few):
        typer.echo(f"init: {line}")
    typer.echo(f"next: {_vesalius()} run {study}")


def look(scans: Path, folder: Path | None, described: Described, images: list[Image], drawn: Drawn | None) -> tuple[Found, MaskSet | None]:
    """What is in the folders, and the values that follow; and the masks, where labels are a file for each structure. ``drawn``: labels from
    DICOM, if those are to be used."""
    from pipeline.cohorts._headers import read_headers
    from pipeline.cohorts._looked import find_labels, find_masks, find_owned, sequences_of, with_subjects
    from pipeline.cohorts._masks import read_cases
    from pipeline.cohorts._suggest import suggest

    masks = None
    owned: dict[Path, Path] = {}
    values: tuple[int, Counter[int]] = (0, Counter())
    together: tuple[str, ...] = ()
    listed = tuple(f"{number:04d}" for number in range(len(described.channels)))
    sequences = listed if len(listed) > 1 else sequences_of(images)
    if drawn:
        owned, values = {image.path: image.path for image in drawn.labelled}, (drawn.looked, Counter())
    elif folder:
        files = find_labels(folder, scans)
        cases, images, together = find_masks(files, images, sequences)
        if cases:
            masks = read_cases(cases)
            owned, values = masks.whole, (masks.looked, values[1])
        else:
            owned, images, together = find_owned(files, scans, folder, images, sequences)
            values = read_values(owned)
    images, subject = with_subjects(images)
    labels = folder or (scans if drawn else None)
    headers = read_headers(images)
    found = suggest(scans, labels, images, owned, headers, values, subject, described, together or sequences, bool(together))
    return found, masks


def write(texts: dict[Path, str], study: Path) -> None:
    """All files, or none if the study cannot be planned."""
    from pipeline.files import write_text
    from pipeline.plan import make_plan

    try:
        for path, text in texts.items():
            write_text(path, text)
        make_plan(study)
    except BaseException:
        for path in texts:
            path.unlink(missing_ok=True)
        raise


def told_aside(scans: Path, found: Found, aside: Aside, few: bool) -> Iterator[str]:
    """What a user may have meant to be used, and is not."""
    if few:
        yield "DICOM labels of fewer than 3 subjects are left aside, since a transfer needs 3: to test, to validate, to train"
    if aside.labels and not found.labels:
        yield f"{aside.labels} label volumes by name or folder are left aside; to use them, call again with --labels {scans} and a --name"
    if words := aside.words():
        yield f"{scans}: {words}"


def _vesalius() -> str:
    """The command as it was called, where nobody has put it on the path."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "vesalius" and shutil.which("vesalius") is None else "vesalius"


def _new_files(into: Path, name: str) -> tuple[Path, Path]:
    """Of the study and the task; one that is there is a ``ValueError``."""
    study, task = into / "studies" / f"{name}.yaml", into / "tasks" / f"{name}.yaml"
    for path in (study, task):
        if path.exists():
            raise ValueError(f"{path}: is there already and is not overwritten; give the study another name with --name")
    return study, task


def _name(scans: Path, name: str | None) -> str:
    from pipeline.configuration import Name
    from pipeline.plugins import Config

    if name is None:
        folder = scans.resolve()
        given = folder.parent.name if GENERAL.fullmatch(folder.name) and folder.parent.name else folder.name
        return re.sub(r"[^a-z0-9]+", "_", given.lower()).strip("_")[:48] or "study"

    class Named(Config):
        name: Name

    try:
        return Named(name=name).name
    except ValueError as error:
        raise ValueError(f"--name: {name!r} is none; use up to 48 of a-z, 0-9 and _") from error


def find_drawn(labels: Path | None, images: list[Image], dicom: Dicom) -> Drawn | None:
    """What the segmentations and structure sets beside the scans, or in the folder of labels, hold; None where label volumes are."""
    from pipeline.cohorts._drawn import read_drawn
    from pipeline.cohorts._headers import evenly
    from pipeline.cohorts._looked import walked

    if labels:
        items = list(walked(labels))
        if any(item.kind in ("nifti", "metaimage") for item in items):
            return None
        for item in items:
            if item.kind == "dicom" and item.code is None and item.path not in dicom.companions:
                dicom.take(item.path)
    return read_drawn(dicom, images, evenly(dicom.companions)) if dicom.companions else None


def read_values(owned: dict[Path, Path]) -> tuple[int, Counter[int]]:
    """(label files looked at, label value -> number of them that hold it), background left out."""
    import numpy as np

    from pipeline.cohorts._headers import evenly
    from pipeline.progress import Progress
    from pipeline.scans.quarantine import Refused
    from pipeline.scans.reading import read_scan

    counts: Counter[int] = Counter()
    sample = evenly(list(owned.values()))
    with Progress("labels", len(sample), unit="file") as progress:
        for path in sample:
            try:
                values = np.unique(read_scan("metaimage" if path.suffix in METAIMAGE else "nifti:sform", [path]).voxels)
            except Refused as refused:
                raise ValueError(f"{path}: cannot be read as a label volume: {refused}") from refused
            if not np.array_equal(values, values.astype(np.uint8)):
                raise ValueError(f"{path}: has values that are no labels; label volumes hold whole numbers from 0 to 255")
            counts.update(int(value) for value in values if value)
            progress.advance()
    if not counts:
        raise ValueError(f"{next(iter(owned.values()))}: this and all other label files hold background only; there is nothing to learn")
    return len(sample), counts
