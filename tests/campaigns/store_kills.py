"""Does a store that was killed, or that ran out of disk, end as one that was not? Ends with 0 if every tree is byte-identical.

    .venv/bin/python tests/campaigns/store_kills.py --kills 50 --results /tmp/store_kills > docs/store_kills.txt

Bodies from a formula, with labels, are indexed once. Then `vesalius preprocess` runs on a copy and is killed (SIGKILL, with all that it
started) at a random instant of the time it takes, or in the middle of its n-th write; or its n-th write finds the disk full. It is called
again, then `vesalius split`, and the sha256 of every file of the store, of every table and of the manifest are compared.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "volumes" / "disguises"))
from bodies import person  # noqa: E402

from pipeline.files import digest, write_json  # noqa: E402
from pipeline.folder import StudyFolder  # noqa: E402
from pipeline.plan import make_plan, plan_json  # noqa: E402
from pipeline.verbs import index, preprocess, split  # noqa: E402

SHARD = "00"
WRITES = ((Path, "write_bytes"), (pd.DataFrame, "to_parquet"), (os, "fsync"), (os, "replace"))


def make_study(root: Path, people: int, shape: tuple[int, ...] = (48, 40, 32)) -> Path:
    """An indexed study of one shard; its folder."""
    for number in range(people):
        volume = person(number, shape)
        for folder, voxels in (("images", volume.voxels[0]), ("labels", (volume.voxels[0] > 30).astype(np.uint8))):
            (root / "data" / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, volume.grid.affine), root / "data" / folder / f"person{number}.nii.gz")
    (root / "organ.yaml").write_text(yaml.safe_dump({"labels": "{data}/labels", "kind": {"segmentation": {"classes": {1: "organ"}}}}))
    study = {
        "data": str(root / "data"), "sources": [{"path": "{data}/images", "modality": "CT"}], "shards": 1, "tasks": ["organ.yaml"],
        "finetune": {"num_labels": [1]},
        "split": {"test": 1, "validation": 1}, "preprocess": {"spacing_mm": [6.0, 6.0, 6.0]}, "identity": {"public_key": "campaign"},
    }  # fmt: skip
    (root / "tiny.yaml").write_text(yaml.safe_dump(study))
    folder = root / "results" / "tiny"
    write_json(StudyFolder(folder).plan, plan_json(make_plan(root / "tiny.yaml")))
    index.run(folder)
    return folder


def finish(folder: Path) -> None:
    preprocess.run(folder, SHARD)
    split.run(folder)


def tree(folder: Path) -> dict[str, str]:
    """sha256 by name of all that stands in a study's folder, but for locks."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lease")
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


@contextmanager
def at_write(number: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """At the ``number``-th write, sync or rename ``act`` is called; a write has then written half. Yields [calls so far]."""
    seen, before = [0], [(owner, name, getattr(owner, name)) for owner, name in WRITES]

    def trapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            seen[0] += 1
            if seen[0] == number:
                if name == "write_bytes":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                elif name == "to_parquet":
                    with Path(arguments[1]).open("wb") as stream:
                        stream.write(b"PAR1")
                act()
            return real(*arguments, **named)

        return call

    for owner, name, real in before:
        setattr(owner, name, trapped(name, real))
    try:
        yield seen
    finally:
        for owner, name, real in before:
            setattr(owner, name, real)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_fork(work: Callable[[], None], seconds: float | None = None) -> int:
    """Exit code of ``work`` in a process group of its own; after ``seconds`` the whole group is killed (-9)."""
    child = os.fork()
    if not child:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def copied(whole: Path, place: Path) -> Path:
    """A copy of an indexed study at the same place in ids: the crosswalk goes by where results lie, so the copy takes it along."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    from pipeline.scans.identity import study_private

    private = study_private(StudyFolder(place))
    if not private.exists():
        shutil.copytree(study_private(StudyFolder(whole)), private)
    return place


def trial(indexed: Path, place: Path, work: Callable[[Path], int], expected: dict[str, str]) -> tuple[int, int, list[str]]:
    """(exit code, files left behind, names that differ after the second call)."""
    folder = copied(indexed, place)
    code = work(folder)
    left = sum(1 for path in (folder / "store").rglob("*") if path.is_file()) if (folder / "store").exists() else 0
    if in_fork(lambda: finish(folder)):
        return code, left, ["the second call failed"]
    found = tree(folder)
    return code, left, sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def trials(indexed: Path, kills: int, seconds: float, writes: int, seed: int) -> Iterator[tuple[str, Callable[[Path], int]]]:
    """What is done to a run, in words, and how."""
    draw = random.Random(seed)
    for number in range(kills):
        instant = draw.uniform(0.0, seconds)
        work = lambda folder, instant=instant: in_fork(lambda: preprocess.run(folder, SHARD), instant)  # noqa: E731
        yield f"kill {number + 1:3d} after {instant:6.3f} s", work
    for what, act in (("killed", killed), ("disk full", full_disk)):
        for number in range(1, writes + 1):
            yield f"{what} at write {number:3d}", lambda folder, n=number, act=act: in_fork(lambda: _trapped(folder, n, act))


def _trapped(folder: Path, number: int, act: Callable[[], None]) -> None:
    with at_write(number, act):
        preprocess.run(folder, SHARD)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--results", type=Path, required=True, help="A folder that does not exist yet.")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True)
    os.environ["VESALIUS_PRIVATE"] = str(arguments.results / "private")
    output, sys.stderr = sys.stdout, open(os.devnull, "w")  # noqa: SIM115
    sys.stdout = sys.stderr
    indexed = make_study(arguments.results, arguments.people)
    whole = copied(indexed, arguments.results / "whole")
    begun = time.monotonic()
    with at_write(0, full_disk) as writes:
        preprocess.run(whole, SHARD)
    seconds, number = time.monotonic() - begun, writes[0]
    split.run(whole)
    expected = tree(whole)
    say = lambda text: print(text, file=output, flush=True)  # noqa: E731
    say(f"uninterrupted: {seconds:.2f} s, {number} writes, syncs and renames, {len(expected)} files")
    wrong, begun = 0, time.monotonic()
    for what, work in trials(indexed, arguments.kills, seconds, number, arguments.seed):
        code, left, differs = trial(indexed, arguments.results / "again", work, expected)
        wrong += bool(differs)
        ended = {0: "had ended", -9: "killed"}.get(code, "stopped with an error")
        then = "byte-identical" if not differs else f"DIFFERS: {', '.join(differs[:3])}"
        say(f"{what}: {ended}, {left:3d} files in the store; then {then}")
    total = arguments.kills + 2 * number
    say(f"{total - wrong} of {total} byte-identical ({time.monotonic() - begun:.0f} s)")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
