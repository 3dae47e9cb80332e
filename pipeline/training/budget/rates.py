"""Floating-point work: what a step asks for, and what the device could do at most."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import torch

# Dense peak in TFLOP/s by name, (bf16 or fp16, float32 as PyTorch convolves it: TF32 where there are tensor cores). NVIDIA's data sheets;
# without sparsity. The longest entry whose words are all in the device's name counts.
PEAKS = {
    "B200": (2250.0, 1125.0),
    "H200": (989.0, 494.0),
    "H100": (989.0, 494.0),
    "H100 PCIe": (756.0, 378.0),
    "H100 NVL": (835.0, 417.0),
    "GH200": (989.0, 494.0),
    "A100": (312.0, 156.0),
    "A40": (149.7, 74.8),
    "A30": (165.0, 82.0),
    "A10": (125.0, 62.5),
    "A6000": (154.8, 77.4),
    "L40S": (362.0, 183.0),
    "L40": (181.0, 90.5),
    "L4": (121.0, 60.0),
    "RTX 3090": (71.0, 35.6),
    "RTX 4090": (165.2, 82.6),
    "V100": (125.0, 15.7),
    "T4": (65.0, 8.1),
}
SIZE = 1024  # of the matrices by which a device that is not in the table is measured
PATIENCE_S = 1.0


def peak(device: torch.device, precision: str) -> tuple[float, str]:
    """(FLOP/s at most, where the figure is from)."""
    lower = precision != "fp32"
    if device.type == "cuda":
        words = set(re.split(r"[^A-Za-z0-9]+", torch.cuda.get_device_name(device)))
        known = [entry for entry in PEAKS if set(entry.split()) <= words]
        if known:
            entry = max(known, key=len)
            return PEAKS[entry][0 if lower else 1] * 1e12, f"data sheet of {entry}, {'bf16' if lower else 'TF32'}, dense"
    dtype = torch.bfloat16 if lower else torch.float32
    kind = "bf16" if lower else "float32"
    return matmul_rate(device, dtype), f"measured: the fastest {kind} product of matrices of {SIZE} x {SIZE}, {threads(device)}"


def threads(device: torch.device) -> str:
    count = torch.get_num_threads()
    return "on the GPU" if device.type == "cuda" else f"{count} thread{'s' if count > 1 else ''}"


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = SIZE, patience_s: float = PATIENCE_S) -> float:
    """FLOP/s of the fastest of several products of square matrices."""
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + patience_s
    repeats = 20 if device.type == "cuda" else 1
    while best == 0.0 or time.perf_counter() < end:
        begun = time.perf_counter()
        for _ in range(repeats):
            left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, repeats * 2 * size**3 / (time.perf_counter() - begun))
    return best


def flop_of(act: Callable[[], Any]) -> int:
    """Floating-point operations of convolutions, matrix products and attention in a call, two for each multiplication and addition."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        act()
    return int(counter.get_total_flops())
