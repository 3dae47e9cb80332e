"""On a GPU: does a step wait for the device, is a skip decided there, and does a resumed run end with the same weights?

    python benchmarks/gpu_step.py

Needs PyTorch with CUDA and this package's other requirements of training; makes its own small volumes. Prints a line for each question and
ends with 0 if every answer is yes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "tests" / "training")]
import toy  # noqa: E402

from pipeline.step import to_device  # noqa: E402
from pipeline.training.distributed.ranks import Ranks  # noqa: E402
from pipeline.training.injection import Fault  # noqa: E402
from pipeline.training.signals import Stopped  # noqa: E402


def no_wait(stored: tuple, folder: Path) -> bool:
    """Ten whole steps, spike rule and readings included, while PyTorch raises at every wait of the host for the device."""
    loop = toy.make_loop(stored, folder, Ranks())
    regions = [to_device(region, loop.device) for region in loop.loader.batches(0, 14)]
    for step in range(4):
        loop._step(step, regions[step])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(4, 14):
            loop._step(step, regions[step])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return len(list(loop.readings.due(all_of_them=True))) == 14


def skipped_on_device(stored: tuple, folder: Path) -> bool:
    """A step with a NaN leaves every tensor of the learner and of the optimiser as it was."""
    loop = toy.make_loop(stored, folder, Ranks(), [Fault("nan", "gradient", 3)])
    regions = [to_device(region, loop.device) for region in loop.loader.batches(0, 5)]
    state = lambda: {n: v.clone() for n, v in {**loop.learner.state_dict(), **toy.optimiser_tensors(loop.optimiser)}.items()}  # noqa: E731
    for step in range(3):
        loop.step(step, regions[step])
    before = state()
    outcome, _ = loop.step(3, regions[3])
    after = state()
    same = all(torch.equal(value, after[name]) for name, value in before.items())
    loop.step(4, regions[4])
    return same and not bool(outcome.good) and not all(torch.equal(value, after[name]) for name, value in state().items())


def resumed(stored: tuple, folder: Path, whole: Path) -> bool:
    """Stopped by a signal, read at most ten steps late, and called again: the tensors of the uninterrupted run."""
    toy.make_loop(stored, whole, Ranks()).run(toy.WHO)
    try:
        toy.make_loop(stored, folder, Ranks(), [Fault("term", "step", 6)]).run(toy.WHO)
        return False
    except Stopped as stopped:
        late = int(toy.checkpoints(folder)[-1][5:]) - 7
        print(f"  exit code {stopped.code}, saved {late} steps after the one in which the signal came")
    toy.make_loop(stored, folder, Ranks()).run(toy.WHO)
    return late <= 10 and toy.final(folder) == toy.final(whole) and toy.entries(folder) == toy.entries(whole)


def back_after_ten(stored: tuple, folder: Path) -> bool:
    """Ten steps that are not finite: back to the last checkpoint, and the run ends well."""
    faults = [Fault("nan", "loss", step) for step in range(8, 18)]
    toy.make_loop(stored, folder, Ranks(), faults, steps=48).run(toy.WHO)
    return any(note["text"].startswith("went back") for note in toy.notes(folder))


def main() -> int:
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    folder = Path(tempfile.mkdtemp())
    stored = toy.make_store(folder)
    questions = {
        "no wait for the device in ten steps": lambda: no_wait(stored, folder / "a"),
        "a skip is decided on the device and leaves no trace": lambda: skipped_on_device(stored, folder / "b"),
        "a resumed run is bit-equal": lambda: resumed(stored, folder / "c", folder / "d"),
        "back to a checkpoint after ten bad steps": lambda: back_after_ten(stored, folder / "e"),
    }
    wrong = 0
    for question, answer in questions.items():
        found = answer()
        wrong += not found
        print(f"{'yes' if found else 'NO '}  {question}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
