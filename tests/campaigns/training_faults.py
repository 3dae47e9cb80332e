"""Does a training that is killed again and again end with the weights of one that was not? Ends with 0 if every digest is equal.

    .venv/bin/python tests/campaigns/training_faults.py --kills 200 --results /tmp/faults > docs/training_faults.txt

A small training (``tests/training/toy.py``: real loop, loader, checkpoints and ranks) runs on one process and on two (gloo), without
interruption. Then each trial kills it with SIGKILL three times, at a place of its own or at a random instant, each time after it was
called again, and lets it end. Compared are the sha256 of all tensors of the last checkpoint (weights, teacher, queue, optimiser), and the
journal but for its times.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "training"))
import toy  # noqa: E402

from pipeline.training.checkpoints.checkpoint import STAGES  # noqa: E402
from pipeline.training.injection import Fault  # noqa: E402

PLACES = ("step", "loss", "read", "evaluate", "instant", *(f"save:{stage}" for stage in STAGES))
STEPS = {"evaluate": (8, 16, 24), "save:prune": (9, 14, 19)}  # where else there is nothing to interrupt
SAVED = (4, 9, 14, 19, 23)
KILLED = -9


@dataclass(frozen=True)
class Trial:
    """Three kills of one run: at a place (or at an instant), of these ranks of ``world``."""

    place: str
    world: int
    victims: tuple[int, ...]
    steps: tuple[int, ...]
    instants: tuple[float, ...]

    def calls(self) -> Iterator[dict]:
        """What is done to each call of the training."""
        for step, instant in zip(self.steps, self.instants, strict=True):
            if self.place == "instant":
                yield {"kill": (instant, self.victims)}
            else:
                yield {"faults": [Fault("kill", self.place, step, rank) for rank in self.victims]}


@dataclass(frozen=True)
class Result:
    trial: Trial
    kills: int
    equal: bool


def trials(seed: int, seconds: float) -> Iterator[Trial]:
    """For ever: every place, with one process and with two, of which one or both are killed."""
    draw = random.Random(seed)
    for number in itertools.count():
        place = PLACES[number % len(PLACES)]
        world = 1 + (number + number // len(PLACES)) % 2
        saving = place.startswith("save:") or world == 1
        victims = (0,) if saving else draw.choice([(0,), (1,), (0, 1)])
        usual = SAVED if place.startswith("save:") else range(toy.TRAINING["steps"])
        steps = tuple(sorted(draw.sample(STEPS.get(place, usual), 3)))
        yield Trial(place, world, victims, steps, tuple(draw.uniform(0.05, seconds) for _ in range(3)))


def result_of(trial: Trial, stored: tuple, folder: Path, expected: dict) -> Result:
    """Kills that struck, and whether the run ended as the uninterrupted one."""
    kills = 0
    for call in trial.calls():
        kills += KILLED in toy.train(stored, folder, trial.world, **call)
    ended = toy.train(stored, folder, trial.world) == [0] * trial.world
    return Result(trial, kills, ended and outcome(folder) == expected)


def outcome(folder: Path) -> dict:
    return {"digest": toy.final(folder), "journal": toy.entries(folder)}


def campaign(folder: Path, kills: int, seed: int = 0) -> tuple[dict[int, str], list[Result]]:
    """(digest of the uninterrupted run by number of ranks, results until so many kills have struck)."""
    stored, expected, results = toy.make_store(folder), {}, []
    begun = time.monotonic()
    for world in (1, 2):
        whole = folder / f"whole{world}"
        assert toy.train(stored, whole, world) == [0] * world, toy.said(whole)
        expected[world] = outcome(whole)
    seconds = (time.monotonic() - begun) / 2
    for number, trial in enumerate(trials(seed, seconds)):
        if sum(result.kills for result in results) >= kills:
            break
        results.append(result_of(trial, stored, folder / f"trial{number}", expected[trial.world]))
    return {world: value["digest"] for world, value in expected.items()}, results


def table(digests: dict[int, str], results: list[Result]) -> list[str]:
    lines = [f"uninterrupted, {world} rank{'s' * (world > 1)}: sha256 {digest}" for world, digest in digests.items()]
    lines += ["", f"{'killed at':16} {'ranks':>5} {'killed':>8} {'runs':>5} {'kills':>6} {'equal':>6}"]
    rows: dict[tuple, list[Result]] = {}
    for result in results:
        rows.setdefault((PLACES.index(result.trial.place), result.trial.world, result.trial.victims), []).append(result)
    for (place, world, victims), found in sorted(rows.items()):
        killed = "all" if len(victims) > 1 else f"rank {victims[0]}"
        struck, equal = sum(result.kills for result in found), sum(result.equal for result in found)
        lines.append(f"{PLACES[place]:16} {world:5d} {killed:>8} {len(found):5d} {struck:6d} {equal:6d}")
    kills, equal = sum(result.kills for result in results), sum(result.equal for result in results)
    return [*lines, "", f"{equal} of {len(results)} runs ended with the same sha256 and the same journal, after {kills} kills"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--results", type=Path, required=True, help="A folder that does not exist yet.")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True)
    begun = time.monotonic()
    digests, results = campaign(arguments.results, arguments.kills, arguments.seed)
    print("\n".join(table(digests, results)))
    print(f"({time.monotonic() - begun:.0f} s)")
    return int(not all(result.equal for result in results))


if __name__ == "__main__":
    sys.exit(main())
