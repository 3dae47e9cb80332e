"""Runs every part of ``benchmarks/device`` in a process and with a time limit of its own; writes one JSON and one table after each.

    python benchmarks/gpu.py [--rehearsal] [--device cpu] [--out FOLDER] [PART ...]

A part is a file with a docstring, ``LIMIT_S`` (seconds at most; half in a rehearsal), ``ALONE`` (whether its times would suffer from
company) and ``measure(run) -> dict``. Those that need not be alone run side by side at the end; one that is ``BESIDE`` keeps to one core
from the beginning. A part that fails or hangs costs its own
figures only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Alone first, in this order; the others side by side.
ORDER = ("facts", "network", "views", "loader", "loop", "compiled", "blocks", "parity", "syncs", "resume", "processor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(ORDER))
    parser.add_argument("--rehearsal", action="store_true", help="few repeats")
    parser.add_argument("--device", default="cuda", help="cpu tries the script itself out, with tiny sizes")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.inside:
        inside(arguments)
        return
    Driver(arguments).run()


class Driver:
    """Starts parts, waits for them, and writes what they found."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.begun = arguments, time.monotonic()
        self.found: dict[str, dict] = {}
        self.quiet = Path(tempfile.mkdtemp()) / "quiet"  # appears once all that still run wait for it, to take times in turns

    def run(self) -> None:
        names = [name for name in ORDER if not self.arguments.parts or name in self.arguments.parts]
        modules = {name: importlib.import_module(f"benchmarks.device.{name}") for name in names}
        beside = [name for name in names if getattr(modules[name], "BESIDE", False)]
        together = {name: self.start(name, modules[name].LIMIT_S) for name in beside}
        for name in [name for name in names if modules[name].ALONE]:
            self.finish(name, *self.start(name, modules[name].LIMIT_S))
        together |= {name: self.start(name, modules[name].LIMIT_S) for name in names if not modules[name].ALONE and name not in beside}
        while together:
            ended = [name for name, (process, until, _) in together.items() if process.poll() is not None or time.monotonic() > until]
            for name in ended:
                self.finish(name, *together.pop(name))
            if together and all((self.quiet.parent / f"{name}.waiting").exists() for name in together):
                self.quiet.touch()
            time.sleep(0.1)

    def start(self, name: str, limit_s: float) -> tuple:
        arguments, log = self.arguments, (self.arguments.out / f"{name}.log").open("w")
        command = [sys.executable, __file__, name, "--inside", "--device", arguments.device, "--out", str(arguments.out)]
        environment = os.environ | {"QUIET": str(self.quiet), "OMP_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        extra = ["--rehearsal"] if arguments.rehearsal else []
        process = subprocess.Popen([*command, *extra], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)
        return (
            process,
            time.monotonic() + limit_s * (5 if arguments.device == "cpu" else 0.6 if arguments.rehearsal else 1),
            time.monotonic(),
        )

    def finish(self, name: str, process: subprocess.Popen, until: float, begun: float) -> None:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        path = self.arguments.out / f"{name}.part.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        path.unlink(missing_ok=True)
        if process.returncode:
            log = (self.arguments.out / f"{name}.log").read_text().strip().splitlines()
            found["failed"] = f"exit status {process.returncode}: {' | '.join(log[-3:])}"[:1500]
        self.found[name] = {**found, "wall_s": round(time.monotonic() - begun, 1)}
        print(f"[{time.monotonic() - self.begun:6.1f} s] {name}: {found.get('failed', 'done')}", flush=True)
        self.write()

    def write(self) -> None:
        from benchmarks.device._table import table

        whole = {"rehearsal": self.arguments.rehearsal, "wall_s": round(time.monotonic() - self.begun, 1), **self.found}
        (self.arguments.out / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n")
        text = table(whole)
        (self.arguments.out / "gpu.md").write_text(text)
        if set(self.found) >= {name for name in ORDER if not self.arguments.parts or name in self.arguments.parts}:
            print("\n" + text)


def inside(arguments: argparse.Namespace) -> None:
    """One part in this process. What it noted before an error is kept."""
    from benchmarks.device._run import Run

    (name,) = arguments.parts
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(arguments.device, arguments.rehearsal, Path(scratch), arguments.out / f"{name}.part.json")
        try:
            run.note(importlib.import_module(f"benchmarks.device.{name}").measure(run) or {})
        except Exception:
            traceback.print_exc()
            run.note({"failed": traceback.format_exc().strip().splitlines()[-1][:1000]})


if __name__ == "__main__":
    main()
