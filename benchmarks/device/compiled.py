"""torch.compile of the networks' training step as one graph, as ``training.compile`` does it. It compiles beside the other parts."""

import os
import time
from typing import Any

import torch

from benchmarks.device._run import RESENC, SMALL_UNET, Run
from benchmarks.device.network import flop, step
from pipeline.networks._layers import Block
from pipeline.networks.resenc import Residual, UpLevel
from pipeline.training.optimiser import make_optimiser

LIMIT_S = 150
ALONE = False


def measure(run: Run) -> None:
    timed(run, "whole")


def timed(run: Run, how: str) -> None:
    """Compiles, waits until all else is done, and takes times alone."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "6")
    torch._dynamo.config.recompile_limit = 64  # blocks differ in shape
    ready, rows = [], []
    for what, mapping in (("resenc", RESENC), ("unet", SMALL_UNET)):
        begun = time.perf_counter()
        network, x, optimiser = compiled(run, what, mapping, how)
        run.wait()
        ready.append((what, network, x, optimiser))
        run.note({"compiled_s": run.found.get("compiled_s", {}) | {what: round(time.perf_counter() - begun, 1)}})
    with run.quiet() as quiet:
        for what, network, x, optimiser in ready:
            spent = run.milliseconds(lambda n=network, v=x, o=optimiser: step(n, v, o), 10)
            rows.append({"network": what, "layout": "contiguous", "compiled": how, "batch": run.batch, "ms": spent,
                         "crops_s": round(1e3 * run.batch / spent, 1)})  # fmt: skip
            run.note({"rows": rows, "quiet": quiet})


def compiled(run: Run, what: str, mapping: dict, how: str) -> tuple[Any, torch.Tensor, Any]:
    """A network that has made one step already."""
    network = run.network(mapping)
    if f"{what}_gflop_crop" not in run.found:
        run.note({f"{what}_gflop_crop": round(flop(run, network) / 1e9, 1)})
    x = torch.rand(run.batch, 1, *run.size, device=run.device)
    optimiser = make_optimiser([(network.parameters(), 1.0)], 1e-3, 1e-2)
    if how == "whole":
        network.compile(dynamic=False)
    else:
        inside: set[int] = set()
        for module in network.modules():
            if isinstance(module, Block | Residual | UpLevel) and id(module) not in inside:
                inside |= {id(part) for part in module.modules()}
                module.compile(dynamic=False)
    step(network, x, optimiser)
    return network, x, optimiser
