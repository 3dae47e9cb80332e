"""True correspondence of places, for scans that were made from one template: how far words are off can then be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cohorts._brains import template_place
from pipeline.folder import StudyFolder


class TemplateTruth:
    """Places of a scan in the template that its cohort was made from; None for scans whose origin is not on this machine.

    The files lie in ``truth`` beside ``images``, named as the image or its folder (see ``cohorts.embedded``).
    """

    def __init__(self, where: StudyFolder) -> None:
        self.files = truth_files(where)

    def __call__(self, row: dict[str, Any], places_mm: np.ndarray) -> np.ndarray | None:
        path = self.files.get(row["scan_id"])
        return None if path is None else template_place(path, places_mm)


def truth_files(where: StudyFolder) -> dict[str, Path]:
    """scan_id -> file that holds its truth, by the private crosswalk; empty without one."""
    from pipeline.scans.identity import read_crosswalk

    try:
        crosswalk = read_crosswalk(where)
    except ValueError:
        return {}  # another machine indexed the scans: nothing leads back to their files
    found = {}
    for path, scan in crosswalk.loc[crosswalk["kind"] == "scan", ["path", "scan_id"]].drop_duplicates("scan_id").itertuples(index=False):
        image = Path(path)
        for part in (image, *image.parents):
            if part.parent.name == "images":
                truth = part.parent.parent / "truth" / f"{part.name.partition('.')[0]}.npz"
                if truth.is_file():
                    found[scan] = truth
    return found
