"""The table of label fault cases: what each builds, and what must become of it: the right label volume, or exactly one reason code."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from drawn import ball, write
from faults.phantom import LPS_TO_RAS
from faults.series import save

from pipeline.labels.reading import read_labels
from pipeline.labels.rule import rule_of
from pipeline.scans.quarantine import Refused
from pipeline.scans.reading import Limits, read_scan

QUICK = Limits(memory_mb=1500, processor_s=20, clock_s=20.0)


@dataclass
class Built:
    """``images``: data sets of the image; ``labels``: data sets, or bytes of files; ``truth``: label value -> depth function, LPS mm;
    ``classes``, ``rule``: arguments of ``rule_of``. A voxel whose centre is deeper than ``near_mm``, in or out, must be right."""

    images: list
    labels: list
    truth: dict[int, Callable] = field(default_factory=lambda: {1: ball()})
    classes: dict[int, str] = field(default_factory=lambda: {1: "liver"})
    rule: dict = field(default_factory=dict)
    near_mm: float = 0.0
    read_as: str = "dicom"


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], Built]
    code: str

    def verdict(self, folder: Path) -> str:
        """ "" where all is as it should be, else what is wrong."""
        built = self.build()
        paths = save(built.images, folder / "image")
        files = []
        for number, item in enumerate(built.labels):
            files.append(folder / "labels" / f"{number}.dcm")
            if isinstance(item, bytes):
                files[-1].parent.mkdir(exist_ok=True)
                files[-1].write_bytes(item)
            else:
                write(item, files[-1])
        grid = read_scan(built.read_as, paths, QUICK).canonical().grid
        try:
            found = read_labels(files, rule_of(built.classes, None, **built.rule), grid, (built.read_as, paths), QUICK)
        except Refused as refused:
            return "" if refused.code == self.code else f"refused: {refused.code}"
        return f"accepted, but should be {self.code}" if self.code else wrong(found, built)


def wrong(found, built: Built) -> str:
    """How the volume differs from the truth; ``on_top`` is the order of ``built.truth``, the last one topmost."""
    points = found.grid.world(np.stack(np.meshgrid(*map(np.arange, found.grid.shape), indexing="ij"), axis=-1)) @ LPS_TO_RAS[:3, :3].T
    expected, sure = np.zeros(found.grid.shape, np.uint8), np.ones(found.grid.shape, bool)
    for value, depth in built.truth.items():
        deep = depth(points)
        expected[deep > 0] = value
        sure &= np.abs(deep) > built.near_mm
    off = (found.voxels[0] != expected) & sure
    for value in built.truth:
        if not (expected == value).any():
            return f"the case holds no voxel of {value}"
    return f"{off.sum()} of {expected.astype(bool).sum()} voxels are wrong" if off.any() else ""


class Table(dict):
    def case(self, code: str = ""):
        def add(build: Callable[[], Built]) -> Callable[[], Built]:
            name = build.__name__.strip("_").replace("_", " ")
            if name in self:
                raise ValueError(f"{name}: is the name of two cases")
            self[name] = Case(name, build, code)
            return build

        return add


def changed(ds, **words):
    """The data set with other values; None takes an element away."""
    for word, value in words.items():
        if value is None:
            delattr(ds, word)
        else:
            setattr(ds, word, value)
    return ds
