"""What `init` makes of DICOM below a folder: series, and the segmentations and structure sets that were drawn on them.

Names of structures are the user's own words: they go into the task file, which is the user's too, and nowhere else.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cohorts._suggest import Found, Image
from pipeline.cohorts._written import schema_line
from pipeline.labels.companion import Companion
from pipeline.labels.reading import described
from pipeline.scans.dicom.elements import read_elements
from pipeline.scans.dicom.headers import COMPANIONS
from pipeline.scans.quarantine import Refused

MOST_CLASSES = 40


@dataclass
class Dicom:
    """DICOM files by folder: how many, of which series and patients; and the objects that hold labels."""

    counts: Counter[Path] = field(default_factory=Counter)
    series: dict[Path, set[str]] = field(default_factory=lambda: defaultdict(set))
    patients: dict[Path, str] = field(default_factory=dict)
    companions: list[Path] = field(default_factory=list)

    def take(self, path: Path) -> None:
        """Looks at a file's header; what cannot be read counts as an image, and `index` says what is wrong with it."""
        try:
            values = read_elements(path).values
        except Refused:
            values = {}
        if values.get("SOPClassUID") in COMPANIONS:
            self.companions.append(path)
            return
        self.counts[path.parent] += 1
        self.series[path.parent].add(values.get("SeriesInstanceUID", ""))
        self.patients.setdefault(path.parent, values.get("PatientID", ""))

    def images(self, scans: Path) -> list[Image]:
        """One for each folder below ``scans``; the subject is the patient, or the folder where nobody is named."""
        return [
            Image(folder.name, self.patients[folder] or folder.name, "dicom", folder, folder.relative_to(scans).as_posix(), count)
            for folder, count in self.counts.items()
        ]


@dataclass(frozen=True)
class Drawn:
    """``names``: how a structure is called -> in how many of the ``looked`` objects."""

    names: dict[str, int]
    looked: int
    labelled: list[Image]


def read_drawn(dicom: Dicom, images: Sequence[Image], sample: Sequence[Path]) -> Drawn | None:
    """Of a sample of the objects; None where none of them can be read and belongs to an image."""
    counts: Counter[str] = Counter()
    found: list[Companion] = []
    for path in sample:
        try:
            found.append(described(path))
        except Refused:
            continue
        counts.update({" ".join(item.name.split()) for item in found[-1].structures} - {""})
    series = {name for companion in found for name in companion.series}
    labelled = [image for image in images if image.kind == "dicom" and dicom.series.get(image.path, set()) & series]
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))  # the same file every time
    return Drawn(dict(ordered), len(found), labelled) if labelled and counts else None


def drawn_task_yaml(found: Found, drawn: Drawn, name: str, path: Path, folder: Path | None) -> str:
    """A task whose classes are the structures that were found, the most frequent first."""
    names = list(drawn.names)
    classes = {value: names[value - 1] for value in range(1, min(len(names), MOST_CLASSES) + 1)}
    segments = "\n".join(f"  {value}: [{_text(label)}]   # in {drawn.names[label]}" for value, label in classes.items())
    rest = "".join(f", {_text(label)}" for label in names[MOST_CLASSES:])
    absent = ", ".join(str(value) for value, label in classes.items() if drawn.names[label] < drawn.looked)
    own = f"labels: {_text(folder)}\n" if folder else ""
    told = "\n".join(f"      {value}: structure_{value}" for value in classes)
    return f"""{schema_line(path, "task")}
# Written by `vesalius init`. Of {drawn.looked} DICOM segmentations and structure sets looked at, so many hold each structure.
# Names stand here as the files have them: check that none says who somebody is. Put names of one structure on one line (* and ? stand for
# any letters), and what is no class of this task on the line of 0; a name that stands nowhere is an error. Then give the classes names.
# docs/labels.md says how labels from DICOM are read.
name: {name}
{own}segments:
{segments}
  0: [{rest.removeprefix(", ")}]   # left out
may_be_absent: [{absent}]   # classes that a patient may not have; the others must be there
on_top: []   # classes that lie over others where structures overlap, the topmost first; any other overlap is an error
kind:
  segmentation:
    classes:
{told}
"""


def _text(value: object) -> str:
    """Quoted, since JSON strings are YAML strings; brackets of a name are no pattern."""
    return json.dumps(str(value), ensure_ascii=False)
