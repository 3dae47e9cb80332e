"""A run of twelve steps, the same again, and one that is interrupted after seven and continued: final weights and optimiser as sha256."""

import contextlib
import hashlib
import warnings

import torch

from benchmarks.device._run import SMALL_UNET, Run, loop_of, recipe_of, study
from pipeline.training.checkpoints import checkpoint

LIMIT_S = 100
ALONE = False
STEPS, BROKEN = 12, 7


def measure(run: Run) -> None:
    run.side, run.size, run.batch = 32, (32,) * 3, 4
    where = study(run, count=4, side=64)
    rows: dict[str, object] = {}
    for kind in ("models_genesis", "transvw", "moco"):
        for deterministic in (True, False):
            what = f"{kind} {'deterministic' if deterministic else 'default'}"
            rows[what] = compared(run, kind, where, deterministic, run.scratch / what.replace(" ", "_"))
            run.note({"rows": rows})


def compared(run: Run, kind: str, where, deterministic: bool, folder) -> dict[str, object]:
    torch.backends.cudnn.deterministic = deterministic
    own = torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms = lambda *_, **__: own(deterministic, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            digests = [whole(run, kind, where, folder / name) for name in ("first", "second")]
            digests.append(broken(run, kind, where, folder / "broken"))
        heads = sorted({str(w.message).split(" does not have")[0][:80] for w in said if "does not have a deterministic" in str(w.message)})
    finally:
        torch.use_deterministic_algorithms = own
        torch.use_deterministic_algorithms(False)
    return {"again": digests[0] == digests[1], "resumed": digests[0] == digests[2], "not_deterministic": heads, "digest": digests[0][:16]}


def make(run: Run, kind: str, where, folder):
    recipe = recipe_of(run, kind, SMALL_UNET, steps=STEPS, journal_every=1)
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"checkpoint_every": 4})})
    return loop_of(run, recipe, where, folder)


def whole(run: Run, kind: str, where, folder) -> str:
    loop = make(run, kind, where, folder)
    loop.run({"run": "whole"})
    return digest(loop)


def broken(run: Run, kind: str, where, folder) -> str:
    loop, calls = make(run, kind, where, folder), []
    backward = loop.learner.backward

    def failing(*values, **named):
        calls.append(1)
        if len(calls) > BROKEN:
            raise KeyboardInterrupt
        return backward(*values, **named)

    loop.learner.backward = failing
    with contextlib.suppress(KeyboardInterrupt):
        loop.run({"run": "broken"})
    loop = make(run, kind, where, folder)
    loop.run({"run": "broken"})
    return digest(loop)


def digest(loop) -> str:
    found = hashlib.sha256()
    tensors = {**loop.learner.state_dict(), **checkpoint.optimiser_tensors(loop.optimiser)}
    for name, value in sorted(tensors.items()):
        found.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
