"""Equal names in two sources: the same people, or others? A name cannot tell, and a wrong guess puts one person into train and test."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter

from pipeline.scans.inventory import Inventory, Place


def check_cohorts(found: Inventory) -> None:
    """Refuses when two sources share subject names and either has no ``cohort``. DICOM patient ids are compared everywhere anyway."""
    shared, example = 0, list[Place]()
    for _, scans in groupby(found.scans.ordered("subject"), attrgetter("subject")):
        places = {scan.place.people: scan.place for scan in scans if not scan.kind.startswith("dicom")}
        if len(places) > 1 and not all(place.cohort for place in places.values()):
            shared += 1
            example = example or sorted(places.values(), key=lambda place: place.anchor)
    if shared:
        first, second, *_ = example
        raise ValueError(
            f"sources: {shared} subjects are called alike in {first.path} and {second.path}. If they are the same people, give both "
            "sources one `cohort: NAME`; if not, a cohort each. Otherwise one person could be pretrained on and tested on"
        )
