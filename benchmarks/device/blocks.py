"""The same with each block compiled by itself, so that PyTorch's own kernels stand between them."""

from benchmarks.device._run import Run
from benchmarks.device.compiled import timed

LIMIT_S = 150
ALONE = False


def measure(run: Run) -> None:
    timed(run, "blocks")
