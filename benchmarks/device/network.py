"""A training step of the networks alone, on crops that lie on the device: batch sizes, layouts, norms; FLOP and share of peak; memory."""

import gc
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.device._run import RESENC, SMALL_UNET, Run
from pipeline.networks import _layers
from pipeline.training.optimiser import make_optimiser

LIMIT_S = 110
ALONE = True
DENSE = frozenset({"dense"})


def measure(run: Run) -> None:
    for what, mapping in (("resenc", RESENC), ("unet", SMALL_UNET)):
        network = run.network(mapping)
        run.note({f"{what}_parameters": sum(p.numel() for p in network.parameters())})
        run.note({f"{what}_gflop_crop": round(flop(run, network) / 1e9, 1)})
        batches = (2,) if run.tiny else (8,) if run.rehearsal else (2, 4, 8, 16, 32)
        variants = [("contiguous", size) for size in batches] + [
            ("channels_last", size) for size in batches if size == 8 or not run.rehearsal
        ]
        rows: list[dict] = []
        for layout, size in variants:
            rows.append(timed(run, mapping, layout, size))
            run.note({what: rows})
        for layout, size, more in variants_at_8(run):
            rows.append(timed(run, mapping, layout, size, **more))
            run.note({what: rows})


def variants_at_8(run: Run) -> list[tuple[str, int, dict]]:
    size = run.batch
    return [("contiguous", size, {"float32_norm": True}), ("contiguous", size, {"tuned": True}), ("channels_last", size, {"tuned": True})]


def flop(run: Run, network: Any) -> float:
    """Of forward and backward of one crop, 2 for each multiplication with addition."""
    x = torch.rand(1, 1, *run.size, device=run.device)
    with FlopCounterMode(display=False) as counter:
        step(network, x)
    network.zero_grad()
    return counter.get_total_flops()


def step(network: Any, x: torch.Tensor, optimiser: Any = None) -> None:
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        dense = network(x, want=DENSE).dense
    dense.float().square().mean().backward()
    if optimiser is not None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def timed(run: Run, mapping: dict, layout: str, size: int, float32_norm: bool = False, tuned: bool = False) -> dict:
    """Milliseconds of a step, crops a second, peak memory; one that does not fit says so."""
    row = {"layout": layout, "batch": size, "float32_norm": float32_norm, "tuned": tuned}
    own, torch.backends.cudnn.benchmark = _layers.Norm.forward, tuned
    if float32_norm:
        _layers.Norm.forward = torch.nn.GroupNorm.forward
    try:
        return row | figures(run, mapping, layout, size)
    except torch.OutOfMemoryError:
        return row | {"failed": "out of memory"}
    finally:
        _layers.Norm.forward, torch.backends.cudnn.benchmark = own, False
        gc.collect()
        if not run.tiny:
            torch.cuda.empty_cache()


def figures(run: Run, mapping: dict, layout: str, size: int) -> dict:
    network = run.network(mapping)
    x = torch.rand(size, 1, *run.size, device=run.device)
    if layout == "channels_last":
        network, x = network.to(memory_format=torch.channels_last_3d), x.to(memory_format=torch.channels_last_3d)
    optimiser = make_optimiser([(network.parameters(), 1.0)], 1e-3, 1e-2)
    if not run.tiny:
        torch.cuda.reset_peak_memory_stats()
    spent = run.milliseconds(lambda: step(network, x, optimiser), 8, warm=2)
    peak = None if run.tiny else round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return {"ms": spent, "crops_s": round(1e3 * size / spent, 1), "peak_gb": peak}
