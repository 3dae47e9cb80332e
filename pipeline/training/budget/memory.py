"""How much memory a step takes, and the micro-batch that fits."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.buffers import give_back_freed_memory

SHARE = 0.9  # of what is free that a run may take


@dataclass(frozen=True)
class Fit:
    """``micro_batch`` crops at once, ``accumulation`` times a step; ``peak_bytes`` of a step with them, of ``free_bytes`` for it."""

    micro_batch: int
    accumulation: int
    peak_bytes: int
    free_bytes: int
    how: str


def fit(device: torch.device, batch: int, backward: Callable[[int], object]) -> Fit:
    """``backward(n)`` puts n crops forward and backward through the network. Where not even one crop fits, a ``ValueError``."""
    sizes = [n for n in range(1, batch + 1) if batch % n == 0]
    return _tried(device, batch, sizes, backward) if device.type == "cuda" else _sloped(batch, sizes, backward)


def own_fit(device: torch.device, micro_batch: int, share: int, backward: Callable[[], object]) -> Fit:
    """Of one rank of several: the micro-batch that the recipe asks for, and the memory that it takes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        backward()
        peak, free = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    else:
        free = free_bytes()
        peak = peak_of(backward)
    return Fit(micro_batch, share // micro_batch, peak, free, "the recipe's own, on each rank")


def _tried(device: torch.device, batch: int, sizes: list[int], backward: Callable[[int], object]) -> Fit:
    """On a GPU: the largest that does not run out of memory."""
    best, peak = 0, 0
    total = torch.cuda.get_device_properties(device).total_memory
    for size in sizes:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            backward(size)
        except torch.cuda.OutOfMemoryError:
            break
        used = torch.cuda.max_memory_allocated(device)
        if used > SHARE * total:
            break
        best, peak = size, used
    torch.cuda.empty_cache()
    if not best:
        raise ValueError("budget: not even one crop fits on this GPU; use smaller crops, a smaller network, or training.shard")
    return Fit(best, batch // best, peak, total, "tried")


def _sloped(batch: int, sizes: list[int], backward: Callable[[int], object]) -> Fit:
    """On a CPU, where running out ends the process: two small sizes are measured, the others follow a straight line."""
    pair = (1, min(sizes[-1], 4))
    peaks = [peak_of(lambda size=size: backward(size)) for size in pair]
    slope = max(0, peaks[1] - peaks[0]) / max(1, pair[1] - pair[0])
    free = free_bytes() + peaks[0]
    size = best_size(sizes, peaks[0], slope, SHARE * free)
    return Fit(size, batch // size, int(peaks[0] + slope * (size - 1)), free, f"a line through {pair[0]} and {pair[1]} crops")


def best_size(sizes: list[int], one: float, slope: float, limit: float) -> int:
    """The largest size whose memory, ``one`` for a single crop and ``slope`` for every further one, is within the limit."""
    fitting = [size for size in sizes if one + slope * (size - 1) <= limit]
    if not fitting:
        raise ValueError("budget: not even one crop fits in memory; use smaller crops or a smaller network")
    return fitting[-1]


def peak_of(act: Callable[[], object]) -> int:
    """Largest resident memory of this process during a call, in bytes; since its start where the system does not let it be reset."""
    give_back_freed_memory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    act()
    return peak_bytes()


def peak_bytes() -> int:
    """Largest resident memory of this process so far, or since it was reset."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_bytes() -> int:
    """What this process may still take: of the machine, or of the control group that it is confined to."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(0, free)
