"""A study and a task for a cohort of the user's own, as text, each value with its reason."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.cohorts._suggest import LARGEST_VOX, LEAST_VOX, Found

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ("models_genesis", "masked")


def task_yaml(found: Found, name: str, path: Path) -> str:
    """The task, as text."""
    seen = ", ".join(f"{value} in {count}" for value, count in found.values.items())
    names = {value: f"label_{value}" for value in found.values} | {v: _text(name) for v, name in (found.described.classes or {}).items()}
    classes = "\n".join(f"      {value}: {name}" for value, name in sorted(names.items()))
    said = "Names are those of dataset.json." if found.described.classes else "Give the structures their names."
    return f"""{schema_line(path, "task")}
# Written by `vesalius init`. Of {found.looked} label files looked at, so many hold each value: {seen}.
# {said} A scan whose labels hold a value that is not listed here is one without labels; 0 is background.
name: {name}
labels: {_text(found.labels)}
kind:
  segmentation:
    classes:
{classes}
"""


def study_yaml(found: Found, name: str, path: Path, task: Path) -> str:
    """The study, as text."""
    train = found.labelled - found.test - found.validation
    recipes = "\n".join(f"  - {_text(_recipe(recipe))}" for recipe in RECIPES)
    spacing, reason = _spacing(found)
    labels = "have labels" if found.labels else "have scans; there are no labels, so this study pretrains and measures no transfer"
    split = f"{found.test} test, {found.validation} validate, {train} train"
    who = f"Subjects with labels: {split}. Subjects without labels are pretrained on."
    if not found.labels:
        who = f"Subjects: {found.validation} validate, {train} train. None is held back for a test, since there are no labels to test with."
    return f"""{schema_line(path, "study")}
# Written by `vesalius init`. Found: {found.images} images of {found.subjects} subjects in {found.files} files ({_counts(found.kinds)});
# {found.labelled} subjects {labels}. Median volume: {_times(found.shape)} voxels of {_times(found.spacing_mm)} mm.
# What is refused, and why, stands in results/{name}/quarantine.tsv after `index`.
name: {name}
sources:
  - path: {_text(found.scans)}
{_modality(found)}
{_subject(found)}{_four_d(found)}{_placement(found)}    origin: the user's own scans   # these two stand in the inventory and in the report
    licence: not stated
{_channels(found)}preprocess:
  spacing_mm: {spacing}   # {reason}
# {who}
split: {{test: {found.test}, validation: {found.validation}}}
# Others lie beside these two. Their crops are of 32 x 48 x 32 voxels; copy one and change `size_vox` where yours are larger.
recipes:
{recipes}
pretrain_seeds: [0]
{_transfer(found, task) if found.labels else ""}"""


def _transfer(found: Found, task: Path) -> str:
    """What is measured on the labels."""
    train = found.labelled - found.test - found.validation
    sizes = ", ".join([*map(str, found.sizes), "all"])
    at = max((size for size in found.sizes if size <= 8), default=train)
    starts = "\n".join(f"  {recipe}: {{recipe: {recipe}}}" for recipe in RECIPES)
    return f"""tasks: [{_text(task)}]
initialisations:
  scratch: {{}}
{starts}
finetune:
  num_labels: [{sizes}]   # `all` is about {train}
  seeds: [0, 1, 2]
  steps: 200
  steps_above: {{8: 400, 32: 800}}
  batch: 2
  size_vox: {list(found.crop)}   # multiples of 8 that half of the volumes hold, {LEAST_VOX} to {LARGEST_VOX}; smaller ones are padded
  search: {{num_labels: {at}, learning_rates: [0.001, 0.004], lengths: [1.0, 2.0]}}   # the same for each initialisation
"""


def _spacing(found: Found) -> tuple[str, str]:
    if found.same_spacing:
        return "native", f"all volumes that were looked at have {_times(found.spacing_mm)} mm"
    return f"[{', '.join(f'{step:g}' for step in found.spacing_mm)}]", "the median; volumes differ"


def _modality(found: Found) -> str:
    only = next(iter(found.modalities)) if len(found.modalities) == 1 else None
    if only in ("CT", "MR", "PT"):
        files = (
            "DICOM files say so themselves" if set(found.kinds) == {"dicom"} else "guessed from names and values; mend it if it is wrong"
        )
        return f"    modality: {only}   # {files}"
    seen = _counts(found.modalities) or "nothing"
    return f"    # modality: MR   # names and headers looked at say: {seen}. For files that don't say it: CT, MR or PT"


def _subject(found: Found) -> str:
    if not found.subject:
        return ""
    why = "several volumes of one person lie side by side, and no split may tear them apart; remove this if they are different people"
    return f"    subject: {_text(found.subject)}   # {why}\n"


def _channels(found: Found) -> str:
    described = found.described.channels
    if len(described) > 1:
        told = " ".join(", ".join(f"{number:04d} {name}" for number, name in enumerate(described)).split())
        names = ", ".join(f'"{number:04d}"' for number in range(len(described)))
        return f"# dataset.json: {told}. They enter together, as channels of one input.\nchannels: [{names}]\n"
    if len(found.channels) < 2:
        return ""
    names = ", ".join(_text(channel) for channel in found.channels)
    if found.together:
        return f"# Labels are those of an exam: its sequences enter together, as channels of one input.\nchannels: [{names}]\n"
    return f"# Several sequences of one exam were found. To let them enter together, as channels of one input:\n# channels: [{names}]\n"


def _four_d(found: Found) -> str:
    if not found.four_d:
        return ""
    policy = "split   # 4-D files" if len(found.described.channels) > 1 else "first   # 4-D files; or split: every volume is a scan then"
    return f"    four_d: {policy}\n"


def _placement(found: Found) -> str:
    if not found.disagree:
        return ""
    why = f"sform and qform disagree in {found.disagree} headers looked at: such files are refused until this names the right one"
    return f"    # placement: sform   # {why}\n"


def _recipe(name: str) -> Path:
    path = Path("configs", "recipes", f"{name}.yaml")
    return path if path.is_file() else ROOT / path


def schema_line(path: Path, kind: str) -> str:
    """The comment by which editors find the schema of a file at ``path``."""
    schema = Path(os.path.relpath(ROOT / "configs" / "schemas" / f"{kind}.json", path.resolve().parent))
    return f"# yaml-language-server: $schema={schema.as_posix()}"


def _text(value: Any) -> str:
    """Quoted, since JSON strings are YAML strings."""
    return json.dumps(str(value), ensure_ascii=False)


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in numbers.items())


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
