"""A study of a few people with DICOM scans, and their labels: segmentations, structure sets, masks."""

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import yaml
from drawn import CENTRE, ball, image, make_segmentation, make_structure_set, outline, write
from faults.series import save, uid

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.plan import make_plan, plan_json
from pipeline.scans.reading import read_scan

TASK = {
    "segments": {"liver": ["hepar*"], "tumour": ["code:SCT:777"], "background": ["couch"]}, "may_be_absent": ["tumour"], "on_top": [2],
    "kind": {"segmentation": {"classes": {1: "liver", 2: "tumour"}}},
}  # fmt: skip
STUDY = {
    "sources": [{"path": "{data}/scans"}], "shards": 1, "split": {"test": 1, "validation": 1}, "preprocess": {"crop_body": False},
    "tasks": ["organs.yaml"], "finetune": {"num_labels": [1]},
}  # fmt: skip
TUMOUR = ball(5.0, CENTRE + 2)


def person(root: Path, number: int, **options):
    """The slices of one person's scan, written and given back."""
    slices = image(series=f"p{number}", shape=(32, 36), **options)
    rng = np.random.default_rng(number)
    for ds in slices:
        ds.PatientID, ds.StudyInstanceUID = f"PERSON{number}", uid("study", number)
        pixels = np.frombuffer(ds.PixelData, np.uint16) + rng.integers(0, 300, ds.Rows * ds.Columns).astype(np.uint16)
        ds.PixelData = pixels.tobytes()
    save(slices, root / "scans" / f"{number}")
    return slices


def planned(root: Path, task=TASK, study=STUDY) -> StudyFolder:
    (root / "organs.yaml").write_text(yaml.safe_dump(task))
    (root / "tiny.yaml").write_text(yaml.safe_dump(study))
    plan = make_plan(root / "tiny.yaml", str(root), str(root / "results"))
    where = StudyFolder(Path(plan.results))
    write_json(where.plan, plan_json(plan))
    return where


def segmented(slices, root: Path, name: str, shapes=None):
    ds = make_segmentation(slices, shapes or {(1, "Hepar Rex"): ball(), (2, "Growth of Jane"): TUMOUR})
    ds.SegmentSequence[-1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "777"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(name)
    return write(ds, root / "scans" / f"{name}.dcm")


def drawn(slices, root: Path, name: str):
    """A structure set of a liver (a box of contours) and a couch."""
    corners = [(4.5, 5.5), (20.5, 5.5), (20.5, 15.5), (4.5, 15.5)]
    regions = {
        (1, "hepar"): [(number, outline(slices[number], corners)) for number in range(2, 9)],
        (2, "COUCH"): [(number, outline(slices[number], np.array(corners) * 50)) for number in range(2, 9)],
    }
    return write(make_structure_set(slices, regions), root / "scans" / f"{name}.dcm")


def mask(root: Path, number: int, values, shift=0.0, kind=np.uint8):
    """A NIfTI mask on the grid of a person's DICOM series."""
    paths = sorted((root / "scans" / str(number)).iterdir())
    grid = read_scan("dicom", paths).grid
    affine = grid.affine.copy()
    affine[0, 3] += shift
    (root / "masks").mkdir(exist_ok=True)
    array = np.zeros(grid.shape, kind)
    array[5:9, 5:9, 3:6] = values
    nibabel.save(nibabel.Nifti1Image(array, affine), root / "masks" / f"{number}.nii.gz")


def table(path):
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
