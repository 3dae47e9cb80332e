"""Views and losses on the device beside those on the CPU, in float32, for everything that the folders hold."""

from dataclasses import fields, replace

import torch

from benchmarks.device._run import VIEWS, Run, keys_of, lexicon, recipe_of, region_of
from pipeline import plugins
from pipeline.nested import tensors
from pipeline.recipe import Recipe
from pipeline.step import Ids, to_device
from pipeline.training.graphs import Replayed
from pipeline.training.learner import Learner

LIMIT_S = 80
ALONE = False
SIDE = 32
SHOWN = {
    "altered": {"corrupt": {"elastic": 1.0}},
    "pair": {"augment": {}},
    "masked": {"masked": {"hide": "token"}},
    "seen": {"augment": {"num_views": 1}},
}


def measure(run: Run) -> None:
    torch.backends.cudnn.allow_tf32 = False
    run.side, run.size = SIDE, (SIDE,) * 3
    views: dict[str, object] = {}
    for name, mapping in {**VIEWS, **{name: {name: {}} for name in plugins.names("views")}}.items():
        views[name] = attempt(lambda mapping=mapping: compared_view(run, mapping))
        run.note({"views": views})
    graphs: dict[str, object] = {}
    for name, mapping in VIEWS.items():
        graphs[name] = attempt(lambda mapping=mapping: compared_graph(run, mapping))
        run.note({"graphs": graphs})
    losses: dict[str, object] = {}
    for name in plugins.names("objectives"):
        losses[name] = attempt(lambda name=name: compared_objective(run, name))
        run.note({"losses": losses})


def attempt(work) -> object:
    try:
        return work()
    except Exception as error:
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"


def compared_view(run: Run, mapping: dict) -> dict:
    """Largest absolute difference of each tensor; share of voxels that differ for masks."""
    view = run.view(mapping, run.size)
    region = region_of(run.size, view.extent_vox(), 4)
    moved = to_device(region, run.device)
    here = view.apply(region, view.draw(keys_of(4, 1, torch.device("cpu")), region))
    there = view.apply(moved, view.draw(keys_of(4, 1, run.device), moved))
    found: dict[str, float] = {}
    for one, other in zip(here, there, strict=True):
        for item in fields(one):
            first, second = getattr(one, item.name), getattr(other, item.name)
            if isinstance(first, torch.Tensor):
                difference = (first.double() - second.cpu().double()).abs()
                value = difference.mean() if first.dtype == torch.bool else difference.max()
                found[item.name] = max(found.get(item.name, 0.0), float(value))
    return found


def compared_graph(run: Run, mapping: dict) -> bool | str:
    """Whether a view replayed from a CUDA graph has the very bits of a plain call, for three batches, of which the last are kept."""
    view, refused = run.view(mapping, run.size), []

    def work(region):
        return view.apply(region, view.draw(region.ids.sample, region))

    replayed = Replayed(work, refused.append)
    regions = []
    for number in range(3):
        region = to_device(region_of(run.size, view.extent_vox(), 4, seed=number), run.device)
        regions.append(replace(region, places=None, ids=Ids(*[keys_of(4, number, run.device)] * 3)))
    shown = [replayed(region) for region in regions]
    if refused:
        return refused[0]
    plain = [work(region) for region in regions]
    return all(torch.equal(a, b) for a, b in zip(tensors(shown), tensors(plain), strict=True))


def compared_objective(run: Run, name: str) -> dict:
    """Loss, figures and gradient of one objective on the first kind of view that it accepts."""
    refused = ""
    for shown, mapping in SHOWN.items():
        try:
            here = outcome(run, name, shown, mapping, torch.device("cpu"))
        except ValueError as error:
            refused = str(error)
            continue
        there = outcome(run, name, shown, mapping, run.device)
        return {key: [here[key], there[key], abs(here[key] - there[key]) / max(1e-6, abs(here[key]))] for key in here}
    raise ValueError(refused)


def outcome(run: Run, name: str, shown: str, mapping: dict, device: torch.device) -> dict[str, float]:
    base = recipe_of(run, "models_genesis", {"unet": {"widths": [8, 16, 32]}}).model_dump(by_alias=True)
    base |= {"network": {"unet": {"widths": [8, 16, 32]}}, "views": {shown: mapping}, "objectives": {name: {"view": shown}}}
    base |= {"training": {"batch": 4}, "words": {"encoder": "models_genesis", "sizes_vox": [run.size]}}
    import pandas as pd

    from pipeline.step import Context

    words = lexicon(pd.DataFrame({"scan_id": ["a" * 16]}), SIDE)
    learner = Learner(Recipe.model_validate(base), Context(8, 4, 100, run.size, 1, 3, lexicon=words)).to(device)
    region = to_device(region_of(run.size, learner.region_vox(), 4), device)
    for _ in range(2):  # queues and banks hold something
        learner.zero_grad(set_to_none=True)
        losses, step = learner.backward((region,), progress=0.5, step=1)
        learner.update(step)
    learner.zero_grad(set_to_none=True)
    losses, _ = learner.backward((region,), progress=0.5, step=2)
    squared = sum(float(p.grad.double().square().sum()) for p in learner.parameters() if p.grad is not None)
    found = {"loss": float(losses[name].value), "gradient": squared**0.5}
    return found | {key: float(value) for key, value in losses[name].metrics.items()}
