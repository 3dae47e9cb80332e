"""Does random damage to valid files ever become a wrong volume, a crash or a hang? Ends with 0 if it never does.

    .venv/bin/python tests/campaigns/mutations.py --count 20000 --seed 0 > docs/mutations.txt

Each mutation is written to a folder and read as the product reads it: ``take_stock``, then each scan's reader. Many share one forked
child, under the limits of ``read_scan``; a child that dies or hangs is charged to the mutation at hand and replaced; one mutation in
``--whole-every`` is also read by ``read_scan`` itself, a child a scan, and must end the same. Every volume that differs from the
undamaged one is compared with what the damaged bytes say (``statements.py``): a format without a checksum cannot tell a flipped voxel
from another scan.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1] / "scans"), str(Path(__file__).parents[2])]

from originals import Files, damaged, originals  # noqa: E402
from statements import agrees, apart  # noqa: E402

from pipeline.scans.child import Limits  # noqa: E402
from pipeline.scans.identity import Identity  # noqa: E402
from pipeline.scans.inventory import Place, take_stock  # noqa: E402
from pipeline.scans.quarantine import Code, Refused  # noqa: E402
from pipeline.scans.reading import CODECS, READERS, _import_codecs, read_scan  # noqa: E402
from pipeline.volumes.memory import mapped_bytes  # noqa: E402

HANG_S = 5.0
MOST_MB = 512
FORK = multiprocessing.get_context("fork")
BAD = ("wrong", "crash", "hang", "memory", "unlike")
SAY = {
    "equal": "read, all equal", "stated": "read, differs as the bytes say", "refused": "refused with a code", "unseen": "no image any more",
    "wrong": "differs from what the bytes say", "crash": "parent crashed", "hang": "over 5 s", "memory": f"over {MOST_MB} MB",
    "unlike": "read_scan ended otherwise", "died": "child died, scan refused",
}  # fmt: skip


def look(folder: Path, read: Any, tell: Any = lambda stage: None) -> tuple[list, set[str]]:
    """(volumes, codes) of a folder; ``tell`` hears the stage before it begins."""
    tell("index")
    stock = take_stock([Place(folder, "scans")], Identity(bytes(32)))
    volumes, codes = [], {file.code.value for file in stock.files if file.code is not None}
    tell("read")
    for scan in stock.scans:
        try:
            volumes.append(read(scan.kind, scan.paths))
        except Refused as refused:
            codes.add(refused.code.value)
    return volumes, codes


def here(kind: str, paths: Any) -> Any:
    """As the child of ``read_scan`` ends."""
    try:
        return READERS[kind.partition(":")[0]](tuple(map(str, paths)), np.empty, kind.partition(":")[2])
    except Refused:
        raise
    except MemoryError:
        raise Refused(Code.TOO_LARGE) from None
    except Exception:
        raise Refused(Code.CORRUPT) from None


def put(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


class Campaign:
    """Mutation ``i`` is a pure function of (seed, i); kinds take turns."""

    def __init__(self, seed: int, folder: Path, whole_every: int) -> None:
        self.seed, self.folder, self.whole_every = seed, folder, whole_every
        self.files = originals()
        self.kinds = list(self.files)
        self.valid = {}
        for kind, files in self.files.items():
            put(folder, files)
            volumes, codes = look(folder, here)
            if len(volumes) != 1 or codes or not agrees(kind, folder, volumes[0]):
                raise SystemExit(f"{kind}: the undamaged files are not read right ({len(volumes)} volumes, {sorted(codes)})")
            self.valid[kind] = volumes[0]

    def kind(self, number: int) -> str:
        return self.kinds[number % len(self.kinds)]

    def write(self, number: int) -> str:
        """Puts a mutation into the folder; what was done."""
        files = self.files[self.kind(number)]
        name, data, words = damaged(files, random.Random(f"{self.seed}/{number}"))
        put(self.folder, {**files, name: data})
        return words

    def judge(self, number: int, tell: Any) -> tuple[str, str]:
        """(outcome, its codes or what was done)."""
        words, kind = self.write(number), self.kind(number)
        volumes, codes = look(self.folder, here, tell)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MOST_MB << 10:
            return "memory", words
        tell("compare")
        valid, outcome = self.valid[kind], "refused" if codes else "unseen"
        if volumes:
            same = len(volumes) == 1 and np.array_equal(volumes[0].voxels, valid.voxels)
            outcome = "equal" if same and np.array_equal(volumes[0].grid.affine, valid.grid.affine) else "stated"
        if outcome == "stated" and not all(apart(kind, self.folder, volume) for volume in volumes):
            return "wrong", words
        if number % self.whole_every == 0 and not self.ends_alike(volumes, codes):
            return "unlike", words
        return outcome, " ".join(sorted(codes))

    def ends_alike(self, volumes: list, codes: set[str]) -> bool:
        others, other_codes = look(self.folder, lambda kind, paths: read_scan(kind, paths, Limits(clock_s=60.0)))
        return (
            codes == other_codes
            and len(others) == len(volumes)
            and all(np.array_equal(a.voxels, b.voxels) and a.grid.same_place(b.grid, 0.0) for a, b in zip(others, volumes, strict=True))
        )


def work(campaign: Campaign, numbers: list[int], there: Any) -> None:
    """In the child."""
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + (Limits().memory_mb << 20), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        try:
            outcome = campaign.judge(number, lambda stage, number=number: there.send((number, stage)))
        except Exception as error:  # of take_stock: it would have ended the run
            outcome = "crash", f"{type(error).__name__}: {error}"
        there.send((number, outcome))
        if outcome[0] == "memory":
            return


def run(campaign: Campaign, numbers: list[int], keep: Any, until: float) -> None:
    """Judges the mutations; ``keep(number, outcome)`` hears each."""
    while numbers and time.monotonic() < until:
        mine, theirs = FORK.Pipe(duplex=False)
        child = FORK.Process(target=work, args=(campaign, numbers, theirs))
        child.start()
        theirs.close()
        at, stage, ended = numbers[0], "index", None
        while ended is None and time.monotonic() < until:
            try:
                if not mine.poll(60.0 if stage == "compare" else HANG_S):
                    ended = ("hang", stage)
                    continue
                at, word = mine.recv()
            except EOFError:
                ended = ("died", stage) if stage == "read" else ("crash", stage)
                continue
            if isinstance(word, str):
                stage = word
            else:
                keep(at, word)
                numbers = numbers[numbers.index(at) + 1 :]
                stage, ended = "index", None if numbers and word[0] != "memory" else ()
        child.kill()
        child.join()
        if ended:
            keep(at, ended)
            numbers = numbers[numbers.index(at) + 1 :]


def table(campaign: Campaign, found: dict[int, tuple[str, str]]) -> str:
    counts: dict[str, Counter] = defaultdict(Counter)
    codes: Counter = Counter()
    for number, (outcome, words) in found.items():
        counts[campaign.kind(number)][outcome] += 1
        codes.update(words.split() if outcome == "refused" else [])
    shown = [name for name in SAY if name != "died" or any(row[name] for row in counts.values())]
    lines = [*(f"{name:>9}: {SAY[name]}" for name in shown), "", _row("", ("all", *shown))]
    for kind in (kind for kind in campaign.kinds if kind in counts):
        lines.append(_row(kind, (counts[kind].total(), *(counts[kind][name] for name in shown))))
    total = sum(counts.values(), Counter())
    lines += [_row("all", (total.total(), *(total[name] for name in shown))), ""]
    lines.append("codes: " + ", ".join(f"{code} {count}" for code, count in codes.most_common()))
    odd = {number: pair for number, pair in found.items() if pair[0] in (*BAD, "died")}
    lines += [f"{number} {campaign.kind(number)}: {outcome} ({words})" for number, (outcome, words) in odd.items()]
    return "\n".join(lines)


def _row(name: str, cells: Iterable[Any]) -> str:
    return f"{name:<16}" + "".join(f"{cell:>9}" for cell in cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole-every", type=int, default=101)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="Stop then; with --state, the next call goes on.")
    parser.add_argument("--state", type=Path, help="A file of what was found, one line a mutation.")
    arguments = parser.parse_args()
    found: dict[int, tuple[str, str]] = {}
    if arguments.state and arguments.state.exists():
        for line in arguments.state.read_text().splitlines():
            number, outcome, words = json.loads(line)
            found[number] = (outcome, words)
    for kind in CODECS:
        _import_codecs(kind)
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        campaign = Campaign(arguments.seed, Path(folder, "in"), arguments.whole_every)
        lines = arguments.state.open("a", buffering=1) if arguments.state else None

        def keep(number: int, outcome: tuple[str, str]) -> None:
            found[number] = outcome
            if lines is not None:
                lines.write(json.dumps([number, *outcome]) + "\n")

        begun, known = time.monotonic(), len(found)
        run(campaign, [number for number in range(arguments.count) if number not in found], keep, begun + arguments.seconds)
        spent = time.monotonic() - begun
    print(f"{len(found)} mutations, seed {arguments.seed}; {1000 * spent / max(1, len(found) - known):.1f} ms each")
    print(table(campaign, found))
    return int(any(outcome in BAD for outcome, _ in found.values()))


if __name__ == "__main__":
    sys.exit(main())
