"""torch.compile of the networks' training step; it compiles beside the other parts and takes its times once nothing else runs."""

import os
import time
from pathlib import Path

import torch

from benchmarks.device._run import RESENC, SMALL_UNET, Run
from benchmarks.device.network import step
from pipeline.training.optimiser import make_optimiser

LIMIT_S = 240
ALONE = False


def measure(run: Run) -> None:
    rows: list[dict] = []
    # In a rehearsal one layout of the large network only, since each compilation takes a minute or more.
    wanted = [("resenc", RESENC, "channels_last"), ("unet", SMALL_UNET, "channels_last")]
    wanted += [] if run.rehearsal else [("resenc", RESENC, "contiguous"), ("unet", SMALL_UNET, "contiguous")]
    ready = []
    for what, mapping, layout in wanted:
        network = run.network(mapping)
        x = torch.rand(run.batch, 1, *run.size, device=run.device)
        if layout == "channels_last":
            network, x = network.to(memory_format=torch.channels_last_3d), x.to(memory_format=torch.channels_last_3d)
        optimiser = make_optimiser([(network.parameters(), 1.0)], 1e-3, 1e-2)
        network.compile(dynamic=False)
        begun = time.perf_counter()
        step(network, x, optimiser)
        run.wait()
        ready.append((what, layout, network, x, optimiser, round(time.perf_counter() - begun, 1)))
        run.note({"compiled_s": {f"{what} {layout}": seconds for what, layout, *_, seconds in ready}})
    until = time.monotonic() + 60
    while not Path(os.environ["QUIET"]).exists() and time.monotonic() < until:
        time.sleep(0.2)
    for what, layout, network, x, optimiser, _ in ready:
        spent = run.milliseconds(lambda n=network, v=x, o=optimiser: step(n, v, o), 10)
        rows.append({"network": what, "layout": layout, "batch": run.batch, "ms": spent, "crops_s": round(1e3 * run.batch / spent, 1)})
        run.note({"rows": rows, "quiet": Path(os.environ["QUIET"]).exists()})
