"""A training step of the networks alone, on crops that lie on the device: batch sizes, layouts, norms; FLOP and share of peak; memory."""

import gc
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.device._run import RESENC, SMALL_UNET, Run
from pipeline.networks import _layers
from pipeline.training.optimiser import make_optimiser

LIMIT_S = 75
ALONE = True
DENSE = frozenset({"dense"})


def measure(run: Run) -> None:
    for what, mapping in (("resenc", RESENC), ("unet", SMALL_UNET)):
        network = run.network(mapping)
        run.note({f"{what}_parameters": sum(p.numel() for p in network.parameters())})
        run.note({f"{what}_gflop_crop": round(flop(run, network) / 1e9, 1)})
        batches = (2,) if run.tiny else (8,) if run.rehearsal else (2, 4, 8, 16, 32)
        variants = [*(("contiguous", size) for size in batches), ("channels_last", batches[len(batches) // 2])]
        rows: list[dict] = []
        for layout, size in variants:
            rows.append(timed(run, mapping, layout, size))
            run.note({what: rows})
        if not run.tiny:
            run.note({f"{what}_profile": profiled(run, mapping)})
        for layout, size, more in variants_at_8(run):
            rows.append(timed(run, mapping, layout, size, **more))
            run.note({what: rows})


KINDS = {"norms": ("norm", "welford", "RowwiseMoments"), "optimiser": ("multi_tensor", "adam", "foreach"), "convolutions": ("conv", "gemm",
         "xmma", "cudnn", "cutlass", "wgrad", "dgrad", "fprop", "nchwTo", "nhwcTo", "sm90", "sm80", "nvjet")}  # fmt: skip


def profiled(run: Run, mapping: dict) -> dict[str, float]:
    """Milliseconds of a step's kernels by what they are for, told by their names; ``rest`` is sums, activations, casts, copies."""
    network, x = run.network(mapping), torch.rand(run.batch, 1, *run.size, device=run.device)
    optimiser = make_optimiser([(network.parameters(), 1.0)], 1e-3, 1e-2)
    step(network, x, optimiser)
    run.wait()
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profile:
        step(network, x, optimiser)
        run.wait()
    found: dict[str, float] = dict.fromkeys([*KINDS, "rest"], 0.0)
    for event in profile.key_averages():
        if str(event.device_type).endswith("CUDA"):
            kind = next((kind for kind, words in KINDS.items() if any(word.lower() in event.key.lower() for word in words)), "rest")
            found[kind] += event.self_device_time_total / 1e3
    return {kind: round(spent, 2) for kind, spent in found.items()}


def variants_at_8(run: Run) -> list[tuple[str, int, dict]]:
    size = run.batch
    return [("contiguous", size, {"float32_norm": True}), ("contiguous", size, {"tuned": True})]


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
