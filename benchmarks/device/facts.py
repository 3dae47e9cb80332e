"""The machine, and two ceilings measured on it: a large bf16 matrix product and copies."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from benchmarks.device._run import Run

LIMIT_S = 20
ALONE = True


def measure(run: Run) -> dict:
    run.note({"python": platform.python_version(), "torch": torch.__version__, "cpu": processor(), "cpus": os.cpu_count()})
    if not run.tiny:
        shown = torch.cuda.get_device_properties(0)
        run.note({
            "device": shown.name, "memory_gb": round(shown.total_memory / 2**30, 1), "processors": shown.multi_processor_count,
            "driver": driver(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        })  # fmt: skip
    else:
        run.note({"device": "cpu"})
    side = 256 if run.tiny else 8192
    a, b = (torch.randn(side, side, device=run.device, dtype=torch.bfloat16) for _ in range(2))
    spent = run.milliseconds(lambda: a @ b, 20)
    run.note({"matmul_tflops": round(2 * side**3 / spent / 1e9, 1)})
    length = 2**20 if run.tiny else 2**30
    source, target = (torch.empty(length, dtype=torch.uint8, device=run.device) for _ in range(2))
    run.note({"copy_gb_s": round(2 * length / run.milliseconds(lambda: target.copy_(source), 10) / 1e6, 1)})
    host = torch.empty(length // 4, dtype=torch.uint8, pin_memory=not run.tiny)
    spent = run.milliseconds(lambda: target[: len(host)].copy_(host, non_blocking=True), 10)
    return {"from_pinned_gb_s": round(len(host) / spent / 1e6, 1)}


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
