"""Look at your scans and labels; write a study and a task that fit them.

Counts every file below the folders; headers are read of all DICOM files and of up to 200 images, voxels of up to 200 label files. Writes
STUDIES/NAME.yaml and TASKS/NAME.yaml below --into, with what was found and why each value was chosen in comments. An existing file is
never overwritten.

\b
A label file belongs to the image of the same name (without nnU-Net's _0000), or to the DICOM series in the folder of that name. In a
folder of nnU-Net or the Decathlon dataset.json says which are the labels, what they are called, and what the channels are; in one of
nnssl pretrain_data.json says whose the images are. DICOM segmentations and structure sets, among the scans or in the folder of labels, say
themselves whose they are, and what their structures are called. Without labels the study only pretrains.

\b
Examples:
  vesalius init scans --labels labels
  vesalius init /archive/ct --labels /archive/ct_labels --name liver
  vesalius init nnUNet_raw/Dataset003_Liver
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.cohorts._drawn import Dicom, Drawn
    from pipeline.cohorts._suggest import Image

METAIMAGE = (".mha", ".mhd", ".nrrd", ".nhdr")
GENERAL = re.compile(r"(images?|scans?|data|nifti|dicom)(tr)?", re.IGNORECASE)


def run(
    scans: Annotated[Path, typer.Argument(help="Folder of scans: NIfTI, MetaImage or DICOM, in any subfolders.")],
    labels: Annotated[Path | None, typer.Option(help="Folder of label volumes; default: what dataset.json says.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study; default: that of the folder of scans.")] = None,
    into: Annotated[Path, typer.Option(help="Folder for studies/NAME.yaml and tasks/NAME.yaml.")] = Path("configs"),
) -> None:
    from pipeline.cohorts._described import describe
    from pipeline.cohorts._drawn import Dicom, drawn_task_yaml
    from pipeline.cohorts._headers import read_headers
    from pipeline.cohorts._suggest import study_yaml, suggest, task_yaml
    from pipeline.files import write_text
    from pipeline.plan import make_plan

    name = _name(scans, name)
    study, task = _new_files(into, name)
    described = describe(scans)
    labels, dicom = labels or described.labels, Dicom()
    images, subject = with_subjects(find_images(scans, labels, dicom))
    drawn = find_drawn(labels, images, dicom)
    if drawn:
        images = [replace(image, key=str(image.path)) for image in images]
        owned, values = {str(image.path): image.path for image in drawn.labelled}, (drawn.looked, Counter())
    else:
        owned = find_owned(scans, labels, images) if labels else {}
        values = read_values(owned) if labels else (0, Counter())
    folder, labels = labels, labels or (scans if drawn else None)
    found = suggest(scans, labels, images, owned, read_headers(images), values, subject, described)
    try:
        if labels:
            write_text(task, drawn_task_yaml(found, drawn, name, task, folder) if drawn else task_yaml(found, name, task))
        write_text(study, study_yaml(found, name, study, task))
        make_plan(study)
    except BaseException:
        study.unlink(missing_ok=True)
        task.unlink(missing_ok=True)
        raise
    wrote = f"{study} and {task}; look at them, they say" if labels else f"{study}; look at it, it says"
    typer.echo(f"init: wrote {wrote} what was found and why each value was chosen")
    typer.echo(f"next: vesalius run {study}")


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


def find_images(scans: Path, labels: Path | None, dicom: Dicom) -> list[Image]:
    """Every image below ``scans``, sorted by path; files below ``labels`` are none. ``dicom`` takes what is DICOM."""
    from pipeline.cohorts._suggest import Image
    from pipeline.scans.folders.layouts import read_layouts
    from pipeline.scans.folders.naming import name_of
    from pipeline.scans.folders.walk import walk

    images, layouts = [], read_layouts(scans)
    for item in _walked(walk(scans), scans):
        if labels and item.path.resolve().is_relative_to(labels.resolve()) and labels.resolve() != scans.resolve():
            continue
        if item.kind == "dicom" and item.code is None:
            dicom.take(item.path)
        elif item.kind in ("nifti", "metaimage") and item.code is None:
            listed = layouts.of(item.path)
            named = listed.named if listed else name_of(item.relative)
            if named is not None and not named.is_labels:
                images.append(Image(named.key, named.subject, item.kind, item.path, 1, named.channel, named.modality))
    images += dicom.images()
    if not images:
        raise ValueError(f"{scans}: holds no NIfTI, MetaImage or DICOM file; name the folder that holds the scans")
    return sorted(images, key=lambda image: str(image.path))


def find_drawn(labels: Path | None, images: list[Image], dicom: Dicom) -> Drawn | None:
    """What the segmentations and structure sets beside the scans, or in the folder of labels, hold; None where label volumes are."""
    from pipeline.cohorts._drawn import read_drawn
    from pipeline.cohorts._headers import evenly
    from pipeline.scans.folders.walk import walk

    if labels:
        items = list(_walked(walk(labels), labels))
        if any(item.kind in ("nifti", "metaimage") for item in items):
            return None
        for item in items:
            if item.kind == "dicom" and item.code is None and item.path not in dicom.companions:
                dicom.take(item.path)
    return read_drawn(dicom, images, evenly(dicom.companions)) if dicom.companions else None


def with_subjects(images: list[Image]) -> tuple[list[Image], str]:
    """The images with their subjects, and the pattern by which those were found if one folder holds several volumes of a person."""
    from pipeline.scans.folders.naming import shared_subject

    flat = [image for image in images if image.kind != "dicom" and image.subject == image.key]
    pattern = shared_subject([image.key for image in flat])
    if not pattern:
        return images, ""
    found = {image.path: re.search(pattern, image.key) for image in flat}
    return [replace(image, subject=found[image.path][1]) if found.get(image.path) else image for image in images], pattern


def find_owned(scans: Path, labels: Path, images: list[Image]) -> dict[str, Path]:
    """Key -> label file, of those that belong to an image."""
    label_files = find_labels(labels)
    owned = {key: path for key, path in label_files.items() if key in {image.key for image in images}}
    if not owned:
        named = f"such as {next(iter(label_files))!r}, while an image is called {images[0].key!r}"
        raise ValueError(
            f"{labels}: none of its {len(label_files)} label files is named like an image in {scans} ({named}); rename them, or name the "
            "folder that belongs to these scans"
        )
    return owned


def find_labels(labels: Path) -> dict[str, Path]:
    """Key -> label file, sorted."""
    from pipeline.scans.folders.naming import label_key
    from pipeline.scans.folders.walk import walk

    found = {label_key(item.path.name): item.path for item in _walked(walk(labels), labels) if item.kind in ("nifti", "metaimage")}
    if not found:
        raise ValueError(f"{labels}: holds no NIfTI or MetaImage file; name the folder that holds the label volumes")
    return dict(sorted(found.items()))


def _walked(items: Any, folder: Path) -> Any:
    from pipeline.progress import Progress

    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; name one that exists")
    total = sum(len(files) for _, _, files in os.walk(folder))
    with Progress(f"look at {folder.name}", max(1, total), unit="file") as progress:
        for item in items:
            progress.advance()
            yield item


def read_values(owned: dict[str, Path]) -> tuple[int, Counter[int]]:
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
                values = np.unique(read_scan("metaimage" if path.suffix in METAIMAGE else "nifti", [path]).voxels)
            except Refused as refused:
                raise ValueError(f"{path}: cannot be read as a label volume: {refused}") from refused
            if not np.array_equal(values, values.astype(np.uint8)):
                raise ValueError(f"{path}: has values that are no labels; label volumes hold whole numbers from 0 to 255")
            counts.update(int(value) for value in values if value)
            progress.advance()
    if not counts:
        raise ValueError(f"{next(iter(owned.values()))}: this and all other label files hold background only; there is nothing to learn")
    return len(sample), counts
