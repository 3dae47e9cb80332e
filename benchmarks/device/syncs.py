"""Whether anything in a step waits for the device: PyTorch raises where it would."""

import traceback

import torch

from benchmarks.device._run import KINDS, SMALL_UNET, Run, loop_of, recipe_of, study
from pipeline.step import to_device

LIMIT_S = 80
ALONE = False


def measure(run: Run) -> None:
    run.side, run.size, run.batch = 32, (32,) * 3, 4
    where = study(run, count=4, side=64)
    rows: dict[str, object] = {}
    for kind in KINDS:
        rows[kind] = found(run, kind, where)
        run.note({"waits": rows})


def found(run: Run, kind: str, where) -> dict[str, str]:
    """Of each stage the line that waits, or ``none``."""
    loop = loop_of(run, recipe_of(run, kind, SMALL_UNET, steps=20), where, run.scratch / kind)
    region = to_device(next(iter(loop.loader.batches(0, 1))), run.device)
    loop.step(0, region)
    run.wait()
    learner, stages = loop.learner, {}

    when = {"progress": 0.5, "epoch": 0}

    def finish() -> None:
        loop.stepper.begin()
        learner.backward((region,), step=2, **when)
        loop.stepper.finish(2, torch.zeros((), device=run.device))

    stages["views"] = waits(run, lambda: learner.look(region))
    stages["forward and backward"] = waits(run, lambda: learner.backward((region,), step=1, **when))
    stages["optimiser"] = waits(run, finish)
    step = learner.backward((region,), step=2, **when)[1]
    stages["update"] = waits(run, lambda: learner.update(step))
    stages["whole step of the loop"] = waits(run, lambda: loop._step(1, region))
    return stages


def waits(run: Run, work) -> str:
    work()
    run.wait()
    if not run.tiny:
        torch.cuda.set_sync_debug_mode("error")
    try:
        work()
        return "none"
    except RuntimeError as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/pipeline/" in frame.filename]
        place = f"{own[-1].filename.rpartition('/pipeline/')[2]}:{own[-1].lineno} {own[-1].line}" if own else "?"
        return f"{place}: {str(error).splitlines()[0]}"[:300]
    finally:
        if not run.tiny:
            torch.cuda.set_sync_debug_mode("default")
