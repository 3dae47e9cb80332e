"""Learners on made-up crops with unlike numbers of valid voxels and words, and what one of two gloo processes does with them.

``main`` compares 2 ranks with one process, and micro-batches with the whole batch, for every objective in the folder and for mixes: all
in float64, so that an error of method cannot pass for one of rounding.
"""

import json
import os
import signal
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import torch

from pipeline.nested import mapped
from pipeline.plugins import load, names
from pipeline.recipe import Recipe
from pipeline.step import Context, Ids, Places, Region
from pipeline.training.distributed.layout import place
from pipeline.training.distributed.ranks import Ranks, joined
from pipeline.training.distributed.sharded import whole
from pipeline.training.learner import Learner
from pipeline.training.loop import Loop
from pipeline.training.micro import merge, micro_batches, part
from pipeline.training.signals import Stopped

SIZE, BATCH, MARGIN = (4, 6, 4), 8, 10
VIEWS = {"masked": {"masked": {"ratio": 0.4, "block_vox": [2, 2, 2]}}, "pair": {"augment": {}}, "altered": {"corrupt": {}}}
MIXES = (("simclr", "restoration"), tuple(names("objectives")))
LEXICON = pd.DataFrame({"word_id": [0, 1, 2], "scan_id": ["a", "b", "c"]})

DTYPE = torch.float32
torch.set_num_threads(1)  # threads that wait for each other on tensors this small cost more than the work


def exact() -> None:
    """Whoever asks for float32 gets float64; only in a process of its own, since modules remember what they were given."""
    global DTYPE
    DTYPE = torch.float64
    torch.Tensor.float, torch.float32 = torch.Tensor.double, torch.float64


def region() -> Region:
    """Crops that lie more and more outside their volume; only some carry a word."""
    generator = torch.Generator().manual_seed(0)
    size = tuple(n + 2 * MARGIN for n in SIZE)
    voxels = torch.randint(0, 1000, (BATCH, 1, *size), generator=generator).to(torch.int16)
    inside = torch.tensor([[0, n] for n in size]).repeat(BATCH, 1, 1)
    inside[:, 0, 0] = MARGIN + torch.arange(BATCH) // 3
    affine = torch.eye(4, dtype=torch.float64).repeat(BATCH, 1, 1)
    body = torch.diag(torch.tensor([0.05, 0.04, 0.03, 1.0], dtype=torch.float64)).repeat(BATCH, 1, 1)
    subject = torch.tensor([0, 1, 2, 3, 0, 4, 5, 6])
    valid = torch.tensor([1, 1, 1, 0, 0, 1, 0, 0], dtype=torch.bool)[:, None]
    word = torch.tensor([0, 1, 2, 0, 0, 1, 2, 0])[:, None]
    places = Places(torch.full((BATCH, 1, 3), 10.0, dtype=torch.float64), word, valid.double(), valid * 0.8, valid)
    window = torch.tensor([[0.0, 1000.0]]).repeat(BATCH, 1, 1)
    return Region(voxels, window, affine, body, inside, Ids(torch.arange(BATCH) + 40, subject, subject), places, SIZE)


@cache
def view_for(objective: str) -> str:
    """The first view that an objective can use with its default settings."""
    for view in VIEWS:
        try:
            with torch.no_grad():
                make([objective], {objective: view}).losses(region())
        except ValueError:
            continue
        return view
    raise AssertionError(f"no view of {sorted(VIEWS)} fits objectives/{objective}.py: add one that does")


def make(objectives, views=None, ranks: Ranks | None = None, **training) -> Learner:
    """A small U-Net with these objectives, on the ranks' devices."""
    learner, settings = unplaced(objectives, views, ranks, **training)
    return place(learner, settings, ranks or Ranks())


def unplaced(objectives, views=None, ranks: Ranks | None = None, **training):
    views = views or {name: view_for(name) for name in objectives}
    chosen = {name: {"view": views[name], "weight": 0.5 + number, **narrow(name)} for number, name in enumerate(objectives)}
    if "restoration" in chosen:
        chosen["restoration"] |= {"altered_weight": 3.0}
    values = {"name": "tiny", "network": {"unet": {"widths": [3, 4], "blocks": 1}}, "crops": {"random": {"size_vox": SIZE}}}
    words = {"words": {"encoder": "x", "sizes_vox": [SIZE]}} if "visual_words" in chosen else {}
    recipe = Recipe.model_validate({**values, "views": VIEWS, "objectives": chosen, "training": {"batch": BATCH, **training}, **words})
    context = Context(100, BATCH, 10, SIZE, 1, 3, lexicon=LEXICON)
    learner = Learner(recipe, context, ranks)
    learner.look = remembered(learner, learner.look)
    return learner.to(DTYPE), recipe.training


def narrow(objective: str) -> dict[str, int]:
    """Small heads, where an objective lets one choose."""
    return {name: 6 for name in ("hidden", "width") if name in load("objectives", objective).Config.model_fields}


SHOWN: dict[tuple[int, str], tuple] = {}


def remembered(learner: Learner, look):
    """Views of a sample are a function of its number: they are made once."""

    def seen(one: Region, row: int, name: str) -> tuple:
        key = (int(one.ids.sample[row]), name)
        if key not in SHOWN:
            views = mapped(
                lambda t: t.to(torch.promote_types(t.dtype, DTYPE)) if t.is_floating_point() else t, look(part(one, slice(row, row + 1)))
            )
            SHOWN.update({(key[0], view): batches for view, batches in views.items()})
        return SHOWN[key]

    wanted = {view for wants in learner.wants.values() for view in wants}
    return lambda one: {
        name: merge([seen(one, row, name) for row in range(len(one.ids.sample))]) for name in learner.views if name in wanted
    }


def wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, DTYPE)) if tensor.is_floating_point() else tensor


def steps_of(learner: Learner, micro: int, rows: slice = slice(None), count: int = 2) -> dict[str, torch.Tensor]:
    """Gradients, loss values and state after some steps of plain descent: the second starts where queues and teachers have moved."""
    found = {}
    learner.train()
    for step in range(count):
        learner.zero_grad()
        losses, seen = learner.backward(micro_batches(part(region(), rows), micro), step=step, progress=step / 10)
        with torch.no_grad():
            for name, parameter in learner.named_parameters():
                if parameter.grad is not None:
                    found[f"{step} gradient {name}"] = parameter.grad.clone()
                    parameter -= 0.05 * parameter.grad
        learner.update(seen)
        for name, loss in losses.items():
            found[f"{step} loss {name}"] = learner.ranks.mean(loss.value.detach())
            found |= {f"{step} figure {name} {metric}": value for metric, value in loss.metrics.items()}
    return found | {f"state {name}": value.clone() for name, value in learner.state_dict().items()}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative differences, by name; what is only on one side is infinitely far."""
    found = {name: float("inf") for name in one.keys() ^ other.keys()}
    for name in one.keys() & other.keys():
        a, b = one[name].double(), other[name].double()
        found[name] = float((a - b).norm() / b.norm().clamp(min=1e-9))
        if " figure " in name and found[name] < 1e-6:
            found[name] = 0.0  # shares of counts are float32 quotients
    return found


def cases() -> list[tuple[str, ...]]:
    return [*((name,) for name in names("objectives")), *MIXES]


class Crops:
    """Stands for a loader: the same crops in every step; ``before`` is called with the step's number."""

    batch, scan_ids = BATCH, ["scan"] * BATCH

    def __init__(self, ranks: Ranks, before=lambda step: None) -> None:
        own = BATCH // ranks.world
        self.rows, self.before = slice(ranks.rank * own, (ranks.rank + 1) * own), before

    def region(self, first: int) -> Region:
        return part(region(), self.rows)

    def batches(self, step: int, num_steps: int, *settings: float):
        for number in range(step, num_steps):
            self.before(number)
            yield self.region(number)

    def scan_of(self, sample: int) -> str:
        return f"scan{sample}"

    def unread(self, samples: range) -> list:
        return []


def run(folder: Path, ranks: Ranks, before=lambda step: None, judged: bool = False, **training) -> dict[str, torch.Tensor]:
    """A mix trained through the loop, or continued; every weight and buffer at the end, and what the last evaluation said."""
    steps = {"steps": 4, "checkpoint_every": 2, "journal_every": 1, "learning_rate": 1e-2, "evaluate_every": 4}
    learner, settings = unplaced(("simclr", "restoration", "moco"), ranks=ranks, **steps, **training)
    crops = Crops(ranks, before)
    loop = Loop(learner, crops, crops if judged else None, settings, folder, ranks)
    metrics = {name: torch.tensor(value) for name, value in loop.run({"run": "x"}).items() if name.endswith("loss")}
    return {**whole(loop.learner.state_dict()), **metrics}


def interrupted(folder: Path, ranks: Ranks, **training) -> list[object]:
    """One rank gets SIGTERM in the second step: the exit code and the checkpoints that are there."""

    def before(step: int) -> None:
        if step == 1 and ranks.rank == ranks.world - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run(folder, ranks, before, **training)
    except Stopped as stopped:
        ranks.barrier()
        return [stopped.code, max(path.name for path in (folder / "checkpoints").glob("step_*"))]
    return []


def worst(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> tuple[str, float]:
    differences = apart(one, other)
    name = max(differences, key=differences.get)
    return name, differences[name]


def main(folder: Path) -> None:
    exact()
    alone, found = {}, {"views": {name: view_for(name) for name in names("objectives")}}
    if os.environ["RANK"] == "0":
        alone = {case: steps_of(make(case), BATCH) for case in cases()}
        for case, whole_batch in alone.items():
            assert all(value > 0 for name, value in whole_batch.items() if " loss " in name and name != "0 loss moco"), whole_batch
            found |= {f"{'+'.join(case)} alone in {micro}": worst(steps_of(make(case), micro), whole_batch) for micro in (4, 2)}
        alone["loop"] = run(folder / "alone", Ranks(), judged=True)
    with joined(60) as ranks:
        rows = Crops(ranks).rows
        for case in cases():
            for micro in (4, 2):
                together = steps_of(make(case, ranks=ranks), micro, rows)
                if ranks.leads:
                    found[f"{'+'.join(case)} in micro-batches of {micro}"] = worst(together, alone[case])
        loops = {
            "loop": run(folder / "plain", ranks, judged=True),
            "sharded loop": run(folder / "sharded", ranks, judged=True, shard="full", micro_batch=2),
        }
        for name, layouts in {"resumed whole": ("full", "none"), "resumed in parts": ("none", "full")}.items():
            found[f"{name}: stopped"] = interrupted(folder / name, ranks, shard=layouts[0])
            loops[name] = run(folder / name, ranks, judged=True, shard=layouts[1])
        interrupted(folder / "same layout", ranks)
        found["resumed in the same layout"] = worst(run(folder / "same layout", ranks, judged=True), loops["loop"])
        told = ranks.first(lambda: {"from": os.environ["RANK"]})
        try:
            ranks.first(lambda: read_nothing(folder))
        except ValueError as error:
            told |= {"refused": str(error)}
        found["told"] = told
        if ranks.leads:
            found |= {name: worst(one, alone["loop"]) for name, one in loops.items()}
        (folder / f"rank{ranks.rank}.json").write_text(json.dumps(found))


def read_nothing(folder: Path) -> None:
    raise ValueError(f"{folder}: rank 0 found nothing")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
