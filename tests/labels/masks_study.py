"""A study of a few people with masks, a file for each structure, beneath their scans: ``s01/ct.nii.gz``, ``s01/segmentations/liver``."""

from pathlib import Path

import nibabel
import numpy as np
import yaml
from scipy import ndimage

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.plan import make_plan, plan_json
from pipeline.verbs import index, preprocess

SHAPE = (24, 22, 18)
AFFINE = np.diag([-1.5, -1.5, 2.0, 1.0])  # towards Left and Posterior, as most CT is stored
BOXES = {"liver": (2, 9), "spleen": (9, 13), "aorta": (13, 15)}  # from-to along the first axis: none overlaps
CLASSES = {1: "aorta", 2: "liver", 3: "spleen"}
TASK = {"labels": "{data}/ts", "masks": "by_name", "kind": {"segmentation": {"classes": CLASSES}}}
STUDY = {
    "sources": [{"path": "{data}/ts", "modality": "CT"}], "shards": 1, "split": {"test": 1, "validation": 1},
    "preprocess": {"crop_body": False}, "tasks": ["organs.yaml"], "finetune": {"num_labels": [1]},
}  # fmt: skip


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def box(name: str, inside: int = 1, kind: type = np.uint8) -> np.ndarray:
    low, high = BOXES[name]
    values = np.zeros(SHAPE, kind)
    values[low:high, 4:18, 3:15] = inside
    return values


def picture(number: int) -> np.ndarray:
    """Hounsfield units of a body of its own texture, or all people were twins."""
    rng = np.random.default_rng(number)
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5)
    values = 40 + 300 * texture / texture.std()
    values[:1], values[-1:] = -1000, -1000
    return values.astype(np.int16)


def person(root: Path, number: int, names=tuple(BOXES)) -> Path:
    """The folder of a person with a CT and masks."""
    folder = root / "ts" / f"s{number:02d}"
    save(folder / "ct.nii.gz", picture(number))
    for name in names:
        save(folder / "segmentations" / f"{name}.nii.gz", box(name))
    return folder


def planned(root: Path, task=TASK, study=STUDY, more=()) -> StudyFolder:
    """``more``: other tasks by name, which the study names too."""
    for name, value in {"organs": task, **dict(more)}.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump(value))
    (root / "tiny.yaml").write_text(yaml.safe_dump(study))
    plan = make_plan(root / "tiny.yaml", str(root), str(root / "results"))
    where = StudyFolder(Path(plan.results))
    write_json(where.plan, plan_json(plan))
    return where


def prepared(root: Path, task=TASK, study=STUDY, more=()) -> StudyFolder:
    where = planned(root, task, study, more)
    index.run(where.root)
    preprocess.run(where.root, "00")
    return where
