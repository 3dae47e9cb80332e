"""No view, objective or step makes the host wait for the device: found from the folders, and checked without a GPU (``waits.py``)."""

import itertools
import runpy
from pathlib import Path

import pytest
import torch
from waits import Waits, no_wait

from pipeline.configuration import read_config
from pipeline.keys import fold
from pipeline.plugins import load, names, settings
from pipeline.recipe import Recipe
from pipeline.step import Ask, Context, Loss, Objective, View, to_device
from pipeline.training.faults.spikes import Spikes
from pipeline.training.health.gradients import pulls
from pipeline.training.health.ring import Ring, rows_of
from pipeline.training.micro import micro_batches
from pipeline.training.stepping import Stepper

HERE = Path(__file__).parent
made = runpy.run_path(str(HERE / "ranks_of_learners.py"))
make, region, BATCH, SIZE, MIXES = (made[name] for name in ("make", "region", "BATCH", "SIZE", "MIXES"))
META = torch.device("meta")  # no CPU, so views and keys go the way that they go on a GPU
RECIPES = sorted((HERE.parents[1] / "configs" / "recipes").glob("*.yaml"))

OFFENDERS = {
    "x.sum().item()": "_local_scalar_dense",
    "float(x.sum())": "_local_scalar_dense",
    "bool(x.sum() > 0)": "_local_scalar_dense",
    "1 if x.any() else 0": "_local_scalar_dense",
    "max(x.sum(), x.mean())": "_local_scalar_dense",
    "x[0, x[0, 0].long()]": "_local_scalar_dense",
    "range(x.sum().long())": "_local_scalar_dense",
    "x.nonzero()": "nonzero",
    "torch.where(x > 0)": "nonzero",
    "x[x > 0]": "index",
    "x.index_put_((x > 0,), x.sum())": "index_put",
    "x.__setitem__(x > 0, 0.0)": "index_put",
    "x.masked_select(x > 0)": "masked_select",
    "x.unique()": "unique",
    "torch.equal(x, x)": "equal",
    "torch.allclose(x, x)": "allclose",
    "torch.bincount(x[0].long())": "bincount",
    "x.repeat_interleave(x[:, 0].long(), 0)": "repeat_interleave",
    "torch.linalg.inv(x @ x.T)": "_linalg_check_errors",
    "x.cpu()": "cpu copies to the host",
    "x.to('cpu')": "to copies to the host",
    "x.tolist()": "tolist copies to the host",
    "x.detach().numpy()": "numpy copies to the host",
    "torch.tensor(2.0, device=x.device)": "tensor copies from the host",
}
INNOCENT = (
    "x.to(x.device, torch.float64)", "x[x[:, 0].long()]", "x[:, None, 0]", "x.__setitem__(0, x[1])", "torch.where(x > 0, x, 0.0)",
    "x.masked_fill(x > 0, 0.0)", "x.sort().values.gather(1, x.long())", "torch.full((1,), 3.0, device=x.device)", "len(x)", "x.norm()",
    "torch.linalg.vector_norm(x)", "x.clone().copy_(x)", "x.repeat_interleave(2, 0)",
    "torch.zeros_like(x).index_add_(0, x[:, 0].long(), x)",
)  # fmt: skip


@pytest.mark.parametrize("code", OFFENDERS)
def test_what_waits_is_an_error_that_names_it(code):
    known = {"torch": torch, "x": torch.eye(3)}
    with pytest.raises(Waits, match=OFFENDERS[code]), no_wait():
        eval(code, known)


def test_the_error_names_the_line():
    x = torch.eye(3)
    with pytest.raises(Waits, match=r"test_no_wait\.py:\d+ offence = x\[x > 0\]: aten::index"), no_wait():
        offence = x[x > 0]
        assert offence is None


@pytest.mark.parametrize("code", INNOCENT)
def test_what_does_not_wait_is_none(code):
    known = {"torch": torch, "x": torch.ones(3, 3)}
    with no_wait():
        eval(code, known)


class Looks(Objective):
    """An offender with its line: ``place`` says in which of its methods."""

    def __init__(self, place):
        super().__init__(None, None)
        self.place = place

    def asks(self):
        return (Ask("pair"),)

    def forward(self, step):
        return Loss(step.student["pair"][0].pooled.square().mean() * self.seen("forward", step))

    def update(self, step):
        self.seen("update", step)

    def health(self, step):
        return {"pooled": torch.ones(()) * self.seen("health", step)}

    def seen(self, place, step):
        return step.student["pair"][0].pooled.mean().item() if place == self.place else 1.0


def work_of(learner, micro=BATCH):
    """All that objectives do in a step, as the loop asks for it."""
    shares = micro_batches(region(), micro)
    shown = itertools.cycle([learner.look(one) for one in shares])
    learner.look = lambda one: next(shown)  # views have a way of their own on a CPU: they are looked at below

    def work():
        learner.zero_grad()
        _, seen = learner.backward(shares, step=1, progress=0.5)
        learner.update(seen)
        for objective in learner.objectives.values():
            objective.health(seen)
        for features in seen.student.values():
            for rows in rows_of(features).values():
                Ring().add(rows)
        pulls(learner, seen, micro)

    return work


def learner_of(objectives, **training):
    learner = make(objectives, **training)
    return learner.train()


def checked(work):
    """Twice: tables may be made in the first step."""
    work()
    with no_wait():
        work()


@pytest.mark.parametrize("place", ["forward", "update", "health"])
def test_an_objective_that_looks_at_a_value_is_found(place):
    learner = learner_of(["simclr"])
    learner.objectives["simclr"] = Looks(place)
    with pytest.raises(Waits, match=r"test_no_wait\.py:\d+ return step\.student"):
        checked(work_of(learner))


@pytest.mark.parametrize("micro", [BATCH, 2])
@pytest.mark.parametrize("objectives", [*([name] for name in names("objectives")), MIXES[-1]], ids="+".join)
def test_no_objective_waits(objectives, micro):
    checked(work_of(learner_of(objectives), micro))


class Peeks(View):
    """Offends where its settings say."""

    def draw(self, keys, region):
        return {"n": keys[keys > 0] if self.config == "draw" else keys}

    def apply(self, region, drawn):
        return (region.voxels.cpu() if self.config == "apply" else region.voxels,)


def shown(view):
    one = to_device(region(), META)
    return lambda: view.apply(one, view.draw(fold(one.ids.sample, "seen"), one))


@pytest.mark.parametrize(("place", "words"), [("draw", "index"), ("apply", "cpu copies")])
def test_a_view_that_looks_at_a_value_is_found(place, words):
    work = shown(Peeks(place, None))
    with pytest.raises(Waits, match=rf"test_no_wait\.py:\d+ return .*{words}"), no_wait():
        work()


def views():
    """Every view with its defaults, and as the recipes set it."""
    found = {name: (name, {}) for name in names("views")}
    for path in RECIPES:
        for instance, mapping in read_config(path, Recipe).views.items():
            found |= {f"{path.stem}-{instance}": next(iter(mapping.items()))}
    return found


@pytest.mark.parametrize("case", views())
def test_no_view_waits(case):
    name, values = views()[case]
    checked(shown(load("views", name)(settings("views", name, values), Context(100, BATCH, 10, SIZE, 1))))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("fused", [True, False])
def test_clipping_skipping_and_descending_wait_only_where_no_fused_update_is_at_hand(fused, precision):
    learner = make(["restoration", "moco"], precision=precision).train()  # on the CPU, which has a fused update, too
    trained = [p for p in learner.parameters() if p.requires_grad]
    kept = [v for v in (*learner.parameters(), *learner.buffers()) if not v.requires_grad]
    optimiser = torch.optim.AdamW([{"params": trained, "peak": 1e-3}], lr=1e-3, fused=fused)
    spikes = Spikes("cpu", skip=True)
    spikes.seen = 100
    stepper = Stepper(trained, optimiser, 10, 0.1, 1.0, kept, learner.ranks, spikes)
    one, shown = region(), learner.look(region())
    learner.look = lambda region: shown

    def work():
        stepper.begin()
        losses, seen = learner.backward((one,), step=1, progress=0.5)
        value = sum(loss.value.detach() for loss in losses.values())
        stepper.finish(1, value, 0, lambda: learner.update(seen)).packed()

    if fused:
        checked(work)
    else:
        with pytest.raises(Waits, match=r"stepping\.py:\d+ elif bool\(good\)"):
            checked(work)
