"""A real pretraining loop on the device, and where its step's time goes: waiting for the loader, views, all the rest."""

import time

import torch

from benchmarks.device._run import RESENC, SMALL_UNET, Run, loop_of, recipe_of, study
from pipeline.step import to_device

LIMIT_S = 70
ALONE = True


def measure(run: Run) -> None:
    where = study(run)
    rows: dict[str, dict] = {}
    for what, network in (("resenc", RESENC), ("unet", SMALL_UNET)):
        for kind in ("models_genesis", "transvw"):
            rows[f"{what} {kind}"] = figures(run, where, kind, network, run.scratch / f"{what}_{kind}")
            run.note({"loops": rows})


def figures(run: Run, where, kind: str, network: dict, folder) -> dict:
    """The speed of steps with nothing in their way, and then what each part of a step costs by itself."""
    steps = 4 if run.tiny else 30 if run.rehearsal else 60
    loop = loop_of(run, recipe_of(run, kind, network, steps=steps, journal_every=10), where, folder)
    own, marks, waits = loop.step, [], []

    def step(number, region):
        marks.append(time.perf_counter())
        waits.append(loop.seconds["wait"])
        return own(number, region)

    loop.step = step
    if not run.tiny:
        torch.cuda.reset_peak_memory_stats()
    loop.run({"run": kind})
    run.wait()
    loop.step = own
    # The first steps open files, choose kernels and capture graphs; the host runs ahead of a GPU until it is as far ahead as it may be.
    first = len(marks) // 2 - 1
    whole_ms = 1e3 * (marks[-1] - marks[first]) / (len(marks) - 1 - first)
    wait_ms = 1e3 * (waits[-1] - waits[first]) / (len(waits) - 1 - first)
    return {
        "batch": run.batch, "step_ms": round(whole_ms, 2), "crops_s": round(1e3 * run.batch / whole_ms, 1),
        "wait_ms": round(wait_ms, 2), **alone(run, loop), "first_wait_ms": round(1e3 * waits[0], 1),
        "peak_gb": None if run.tiny else round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }  # fmt: skip


def alone(run: Run, loop) -> dict:
    """What a step is made of, each called again and again: its parts add up where nothing overlaps."""
    region, learner = to_device(next(iter(loop.loader.batches(0, 1))), run.device), loop.learner
    learner.train()

    def backward():
        loop.stepper.begin()
        return learner.backward((region,), progress=0.5, step=1, epoch=0)

    views = run.milliseconds(lambda: learner.look(region), 20)
    plain = run.milliseconds(lambda: plainly(learner, region), 10)
    both = run.milliseconds(backward, 10)
    taken = run.milliseconds(lambda: loop.step(1, region), 10)
    whole = run.milliseconds(lambda: (loop._step(1, region), loop.readings.clear()), 10)
    return {
        "views_ms": views, "plain_views_ms": plain, "forward_backward_ms": round(both - views, 2),
        "optimiser_ms": round(taken - both, 2), "figures_ms": round(whole - taken, 2), "views_share": round(views / whole, 4),
    }  # fmt: skip


def plainly(learner, region):
    """Views without CUDA graphs."""
    with torch.no_grad():
        return learner._look(region)
