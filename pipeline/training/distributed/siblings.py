"""Several processes of one training on this machine, one a GPU: started here, told together, ended together.

torchrun does more (several machines, restarts) and less: it ends with 1 whatever its processes say, and here 75 ("resume me") must
arrive at who called. Each process finds RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun would set them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from pipeline.training.signals import INTERRUPTED, RESUME_ME, WATCHED

GRACE_S = 10.0  # how long the others may take to end by themselves, and say why, after one ended with an error
ORDERLY = (0, RESUME_ME, INTERRUPTED)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def train_together(command: Sequence[str], number: int) -> int:
    """Runs ``command`` as ``number`` ranks and returns the training's exit code: 0, 75 or 130 if all ended in order, else that of the
    first that did not.

    Signals are passed on to every rank. A rank cannot go on without the others, so after an error they are ended too; their last
    checkpoint stays. If this process is killed, the ranks get SIGTERM and save.
    """
    if any(os.environ.get(name, "1") != "1" for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")):
        raise ValueError("--ranks: torchrun or srun started this process as one of several already; leave --ranks out")
    environment = {**os.environ, "WORLD_SIZE": str(number), "MASTER_ADDR": "localhost", "MASTER_PORT": str(_free_port())}
    ranks: list[subprocess.Popen] = []

    def tell(signal_number: int, frame: object) -> None:
        for process in ranks:
            process.send_signal(signal_number)

    old = {name: signal.signal(name, tell) for name in WATCHED}
    try:
        for rank in range(number):
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A group of its own: Ctrl-C reaches a rank once, from here; twice would end it without a checkpoint.
            ranks.append(subprocess.Popen(command, env=own, process_group=0, preexec_fn=_end_with_parent()))
        return _wait(ranks)
    finally:
        for name, handler in old.items():
            signal.signal(name, handler)


def _wait(ranks: Sequence[subprocess.Popen]) -> int:
    failed, deadline = None, float("inf")
    while None in [process.poll() for process in ranks]:
        if failed is None:
            failed = next((rank for rank, process in enumerate(ranks) if process.returncode not in (None, *ORDERLY)), None)
            deadline = time.monotonic() + GRACE_S if failed is not None else deadline
        if time.monotonic() > deadline:
            print(f"vesalius: rank {failed} {_how(ranks[failed])}, so the others are ended", file=sys.stderr, flush=True)
            for process in ranks:
                process.kill()
            deadline = float("inf")
        time.sleep(0.05)
    codes = [process.returncode for process in ranks]
    first = next((rank for rank, code in enumerate(codes) if code not in ORDERLY), None) if failed is None else failed
    return max(codes) if first is None else _as_shell(codes[first])


def _how(process: subprocess.Popen) -> str:
    code = process.returncode
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _as_shell(code: int) -> int:
    """What a shell says of a process that a signal ended: 128 and the signal."""
    return code if code >= 0 else 128 - code


def _free_port() -> int:
    """A port that was free a moment ago; rank 0 refuses one that somebody took since, by name."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def _end_with_parent() -> Callable[[], None] | None:
    """What a child calls first, so that the kernel sends it SIGTERM when its parent is gone; Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return lambda: library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
