"""What runs on this machine's processor, on one core while the first parts use the GPU: the benchmarks of views and of the loader."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.device._run import Run

LIMIT_S = 180
ALONE = False
BESIDE = True  # from the beginning, while hardly anything else keeps the processor busy
FOLDER = Path(__file__).resolve().parents[1]


def measure(run: Run) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for name in ("views", "loader"):
        path = FOLDER / f"{name}.py"
        if not path.exists():
            continue
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MKL_NUM_THREADS": "1"}
        quick = ["--rounds", "1" if run.tiny else "5" if run.rehearsal else "12"]
        made = subprocess.run([sys.executable, str(path), *quick], capture_output=True, text=True, env=environment, check=False)
        run.note({name: made.stdout.splitlines() if not made.returncode else made.stderr.strip().splitlines()[-3:]})
