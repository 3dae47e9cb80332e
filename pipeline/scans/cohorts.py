"""Equal names in two sources: the same people, or others? A name cannot tell, and a wrong guess puts one person into train and test."""

from __future__ import annotations

from collections import defaultdict

from pipeline.scans.inventory import Inventory, Place


def check_cohorts(found: Inventory) -> None:
    """Refuses when two sources share subject names and either has no ``cohort``. DICOM patient ids are compared everywhere anyway."""
    sources: dict[str, dict[str, Place]] = defaultdict(dict)
    for scan in found.scans:
        if not scan.kind.startswith("dicom"):
            sources[scan.subject][scan.place.people] = scan.place
    shared = {name: places for name, places in sources.items() if len(places) > 1 and not all(p.cohort for p in places.values())}
    if shared:
        first, second = sorted(next(iter(shared.values())).values(), key=lambda place: place.anchor)[:2]
        raise ValueError(
            f"sources: {len(shared)} subjects are called alike in {first.path} and {second.path}. If they are the same people, give both "
            "sources one `cohort: NAME`; if not, a cohort each. Otherwise one person could be pretrained on and tested on"
        )
