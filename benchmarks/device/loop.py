"""A real pretraining loop on the device, and where its step's time goes: waiting for the loader, views, all the rest."""

import itertools
import statistics
import time

import torch

from benchmarks.device._run import RESENC, SMALL_UNET, Run, loop_of, recipe_of, study
from pipeline.step import to_device

LIMIT_S = 120
ALONE = True


def measure(run: Run) -> None:
    where = study(run)
    rows: dict[str, dict] = {}
    for what, network in (("resenc", RESENC), ("unet", SMALL_UNET)):
        for kind in ("models_genesis", "transvw"):
            rows[f"{what} {kind}"] = figures(run, where, kind, network, run.scratch / f"{what}_{kind}")
            run.note({"loops": rows})


def figures(run: Run, where, kind: str, network: dict, folder) -> dict:
    """Runs twice: once with nothing in its way, for the speed of steps; once with events about the views and the waiting."""
    steps = 4 if run.tiny else 16 if run.rehearsal else 50
    loop = loop_of(run, recipe_of(run, kind, network, steps=steps, journal_every=steps // 2), where, folder)
    own, marks = loop.step, []

    def step(number, region):
        marks.append(time.perf_counter())
        return own(number, region)

    loop.step = step
    if not run.tiny:
        torch.cuda.reset_peak_memory_stats()
    loop.run({"run": kind})
    run.wait()
    gaps = [b - a for a, b in itertools.pairwise(marks)][len(marks) // 4 :]
    whole_ms = statistics.median(gaps) * 1e3
    region = next(iter(loop.loader.batches(0, 1)))
    region = to_device(region, run.device)
    views_ms = run.milliseconds(lambda: loop.learner.look(region), 20)
    rest_ms = run.milliseconds(lambda: loop.learner.backward(region, progress=0.5, step=1), 10) - views_ms
    loop.optimiser.zero_grad(set_to_none=True)
    return {
        "batch": run.batch, "step_ms": round(whole_ms, 2), "crops_s": round(1e3 * run.batch / whole_ms, 1), "views_ms": views_ms,
        "forward_backward_ms": round(rest_ms, 2), "wait_ms": round(1e3 * loop.seconds["wait"] / steps, 2),
        "views_share": round(views_ms / whole_ms, 4), "wait_share": round(loop.seconds["wait"] / max(1e-9, sum(loop.seconds.values())), 4),
        "peak_gb": None if run.tiny else round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }  # fmt: skip
