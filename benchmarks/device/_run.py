"""What the parts of the GPU benchmark share: sizes, clocks, made-up scans, recipes."""

from __future__ import annotations

import copy
import fcntl
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline import plugins
from pipeline.keys import fold, initialise
from pipeline.recipe import Recipe
from pipeline.step import Context, Ids, Network, Places, Region, View

RESENC = {"resenc": {}}
SMALL_UNET = {"unet": {"widths": [16, 32, 64, 128]}}
FOUR = {"one_of": True, "non_linear": 0.25, "shuffle": 0.25, "in_painting": 0.25, "out_painting": 0.25}
VIEWS = {
    "clean": {"clean": {}},
    "masked": {"masked": {}},
    "models_genesis": {"corrupt": {}},
    "elastic": {"corrupt": {"elastic": 1.0}},
    "transvw": {"corrupt": FOUR | {"elastic": 1.0}},
    "pair": {"augment": {}},
}


@dataclass
class Run:
    """Where and how long to measure. On a CPU everything is tiny: it only tries the script out."""

    name: str
    rehearsal: bool
    scratch: Path
    path: Path
    found: dict[str, Any] = field(default_factory=dict)
    built: dict[str, Network] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = torch.device(self.name)
        self.tiny = self.device.type == "cpu"
        self.side = 32 if self.tiny else 96
        self.size = (self.side,) * 3
        self.batch = 2 if self.tiny else 8
        torch.backends.cudnn.benchmark = False
        torch.set_num_threads(1)

    def note(self, values: dict[str, Any]) -> None:
        """Keeps figures at once, so that a later failure does not cost them."""
        self.found |= values
        self.path.write_text(json.dumps(self.found))

    def wait(self) -> None:
        if not self.tiny:
            torch.cuda.synchronize()

    @contextmanager
    def quiet(self, limit_s: float = 45.0) -> Iterator[bool]:
        """Until all parts that still run wait for this, and then in turns; whether it came to that in time."""
        sign, until = Path(os.environ["QUIET"]), time.monotonic() + limit_s
        (sign.parent / f"{self.path.name.partition('.')[0]}.waiting").touch()
        while not sign.exists() and time.monotonic() < until:
            time.sleep(0.1)
        with (sign.parent / "turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield sign.exists()

    def repeats(self, number: int) -> int:
        return 2 if self.tiny else max(3, number // 3) if self.rehearsal else number

    def milliseconds(self, work: Callable[[], Any], repeats: int = 12, warm: int = 3) -> float:
        """Median of calls, by events on a GPU; a call after the other, so that a device that waits for the host shows."""
        for _ in range(1 if self.tiny else warm):
            work()
        self.wait()
        times = []
        if self.tiny:
            for _ in range(self.repeats(repeats)):
                begun = time.perf_counter()
                work()
                times.append((time.perf_counter() - begun) * 1e3)
            return round(statistics.median(times), 3)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(self.repeats(repeats) + 1)]
        events[0].record()
        for event in events[1:]:
            work()
            event.record()
        torch.cuda.synchronize()
        return round(statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(events)), 3)

    def context(self, batch: int | None = None, num_scans: int = 8) -> Context:
        return Context(num_scans, batch or self.batch, 100, self.size, 1)

    def network(self, mapping: dict[str, Any]) -> Network:
        """A new one on the device; of the given shape, or a tiny one of its kind."""
        name, values = plugins.only(self.network_mapping(mapping), "network")
        if name not in self.built:
            network = plugins.load("networks", name)(plugins.settings("networks", name, values), self.context())
            initialise(network, 0)
            self.built[name] = network
        return copy.deepcopy(self.built[name]).to(self.device)

    def view(self, mapping: dict[str, Any], size: tuple[int, int, int] | None = None) -> View:
        name, values = plugins.only(mapping, "views")
        context = self.context() if size is None else Context(8, 4, 100, size, 1)
        return plugins.load("views", name)(plugins.settings("views", name, values), context)

    def network_mapping(self, mapping: dict[str, Any]) -> dict[str, Any]:
        name, _ = plugins.only(mapping, "network")
        if not self.tiny:
            return mapping
        return {name: {"widths": [4, 8, 8], **({"blocks": [1, 1, 1]} if name == "resenc" else {})}}


def region_of(
    size: tuple[int, ...], extent: tuple[int, ...], batch: int, seed: int = 1, spacing_mm: float = 1.5, outside_vox: int = 4
) -> Region:
    """A made-up CT on the CPU: smooth organs and noise, of which the last ``outside_vox`` of each axis lie outside the volume."""
    generator = torch.Generator().manual_seed(seed)
    organs = torch.nn.functional.interpolate(torch.rand(batch, 1, 6, 6, 6, generator=generator), size=extent, mode="trilinear")
    stored = (organs * 1800 - 900 + 18 * torch.randn(organs.shape, generator=generator)).to(torch.int16)
    none = torch.zeros(batch, 1)
    return Region(
        voxels=stored,
        window=torch.tensor([-1000.0, 1000.0]).repeat(batch, 1, 1),
        affine=torch.diag(torch.tensor([spacing_mm] * 3 + [1.0], dtype=torch.float64)).repeat(batch, 1, 1),
        body=torch.diag(torch.tensor([0.005, 0.005, 0.005, 1.0], dtype=torch.float64)).repeat(batch, 1, 1),
        inside=torch.tensor([[0, n - outside_vox] for n in extent]).repeat(batch, 1, 1),
        ids=Ids(*[torch.arange(batch)] * 3),
        places=Places(torch.zeros(batch, 1, 3, dtype=torch.float64), none.long(), none + 40, none + 0.9, none == 0),
        size_vox=tuple(size),
    )


def keys_of(batch: int, number: int, device: torch.device) -> torch.Tensor:
    return fold(torch.arange(batch, device=device) + number * batch, "benchmark")


def study(run: Run, count: int = 8, side: int = 256) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    """A store of made-up CT volumes, their manifest rows, and a lexicon of four words."""
    from pipeline.volumes.store import Store

    side = 48 if run.tiny else side
    store, rows = Store(run.scratch / "store"), []
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    first = region_of((side,) * 3, (side,) * 3, 1).voxels[0].numpy()
    for number in range(count):
        voxels = np.roll(first, 7 * number, 1)
        scan = f"{'abcdefgh'[number % 8]}{number:015d}"
        meta = {"spacing_mm": [1.5] * 3, "affine": affine.ravel().tolist(), "window_low": [-1000], "window_high": [1000],
                "slope": 1.0, "inter": 0.0}  # fmt: skip
        store.write(scan, voxels, voxels[0] > -500, meta)
        high = [1.5 * (side - 1)] * 3
        rows.append({
            "scan_id": scan, "exam_id": scan, "subject_id": scan, "cluster_id": scan, "channels": '["CT"]', "modality": "CT",
            "spacing_mm": [1.5] * 3, "shape": [side] * 3, "affine": affine.ravel().tolist(), "body_low_mm": [0.0] * 3,
            "body_high_mm": high, "window_low": [-1000.0], "window_high": [1000.0], "slope": 1.0, "inter": 0.0, "digest": scan,
            "split": "train", "labels": "{}", "origin": "made here", "licence": "none", "twin_of": "",
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    return run.scratch / "store", frame, lexicon(frame, side)


def lexicon(frame: pd.DataFrame, side: int) -> pd.DataFrame:
    middle = 1.5 * side / 2
    rows = [
        {
            "word_id": word,
            "scan_id": scan,
            "x_mm": middle + 10 * word,
            "y_mm": middle,
            "z_mm": middle - 10 * word,
            "size_mm": 1.5 * side * 3 / 8,
            "confidence": 0.9,
            "split": "train",
        }
        for word in range(4)
        for scan in frame["scan_id"]
    ]
    return pd.DataFrame(rows)


KINDS = ("models_genesis", "transvw", "moco", "simclr", "masked", "position")
SHOWN = {"models_genesis": "altered", "transvw": "altered", "moco": "pair", "simclr": "pair", "masked": "masked", "position": "seen"}


def recipe_of(run: Run, kind: str, network: dict[str, Any], **training: Any) -> Recipe:
    """The recipes that are timed: restoration after Models Genesis, TransVW, and a contrast of two crops."""
    shown = SHOWN[kind]
    views = {
        "altered": VIEWS["transvw" if kind == "transvw" else "models_genesis"], "pair": VIEWS["pair"],
        "masked": {"masked": {"hide": "token"}}, "seen": {"augment": {"num_views": 1}},
    }  # fmt: skip
    objectives = {
        "models_genesis": {"restoration": {"view": "altered"}},
        "transvw": {"restoration": {"view": "altered"}, "visual_words": {"view": "altered", "weight": 0.05}},
        "moco": {"moco": {"view": "pair"}},
        "simclr": {"simclr": {"view": "pair"}},
        "masked": {"masked_restoration": {"view": "masked"}},
        "position": {"body_position": {"view": "seen"}},
    }[kind]
    value = {
        "name": kind, "network": run.network_mapping(network),
        "crops": {"words" if kind == "transvw" else "random": {"size_vox": run.size}},
        "views": {shown: views[shown]}, "objectives": objectives,
        "training": {"batch": run.batch, "precision": "bf16", "checkpoint_every": 10**6, "evaluate_every": 10**6, **training},
    }  # fmt: skip
    if kind == "transvw":
        value["words"] = {"encoder": "models_genesis", "sizes_vox": [run.size]}
    return Recipe.model_validate(value)


def loop_of(run: Run, recipe: Recipe, where: tuple[Path, pd.DataFrame, pd.DataFrame], folder: Path) -> Any:
    """The very loop that ``vesalius pretrain`` runs."""
    from pipeline.training.pretraining import make_loop

    root, rows, words = where
    place, one = type("Where", (), {"store": root}), type("Run", (), {"seed": 3})
    return make_loop(recipe, one, place, rows, rows.iloc[:0], words if recipe.words else None, folder)
