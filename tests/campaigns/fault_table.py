"""Every fault case, read by Vesalius and by the readers that people use today: the table in docs/faults.md.

    .venv/bin/python tests/campaigns/fault_table.py                   all cases, all readers that are installed
    .venv/bin/python tests/campaigns/fault_table.py --only jpeg tilt  cases whose name holds one of these words; the table is only printed

Cases are the generators in tests/scans/faults (each series is made of an analytic field in patient space, so that right and wrong are
known); readers stand in peer_readers.py. Each reading is a process of its own with limits. Ends with 0 if Vesalius has no wrong volume
and refused no valid case.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
HERE = sys.path.pop(0)  # this folder, in which `faults` is this file
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "scans")]
from faults.cases import Case, tables  # noqa: E402
from faults.outcome import read_folder, read_tree  # noqa: E402

sys.path.append(HERE)
from peer_readers import CLOCK_S, MEMORY_MB, READERS  # noqa: E402
from peer_verdicts import Verdict, judge, judge_ours, volume_of  # noqa: E402

HEADERS = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd")
PARTS = (("dicom", "DICOM"), ("nifti", "NIfTI"), ("metaimage", "NRRD and MetaImage"))
OURS = "Vesalius"


class Peer:
    """A reader in a process that stays, so that its library is imported once; it forks for each case."""

    def __init__(self, name: str) -> None:
        self.title, self.distribution, self.kinds, _ = READERS[name]
        script = str(Path(__file__).with_name("peer_readers.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def is_there(self) -> bool:
        return self._answer() == "ready"

    def _answer(self) -> str:
        return self.process.stdout.readline().strip()

    def read(self, case: Case, source: Path) -> Verdict:
        if case.kind not in self.kinds or (case.kind != "dicom" and case.volumes > 1):  # these read one file
            return Verdict("n.a.", "–")
        with tempfile.TemporaryDirectory() as out:
            self.process.stdin.write(json.dumps([str(source), out]) + "\n")
            self.process.stdin.flush()
            status = self._answer()
            if status != "done":
                return Verdict(status, status)
            with np.load(Path(out) / "found.npz", allow_pickle=False) as found:
                volumes = [volume_of(found[f"v{number}"], found[f"a{number}"]) for number in range(len(found.files) // 2)]
                return judge(case, volumes, bool(found["claims"]))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main_file(folder: Path) -> Path:
    """Of a NIfTI, NRRD or MetaImage case: its header file, or its only one."""
    files = sorted(folder.iterdir())
    return next((path for path in files if path.name.lower().endswith(HEADERS)), files[0])


def run_case(case: Case, peers: Iterable[Peer]) -> dict[str, Verdict]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in"
        folder.mkdir()
        case.build(folder)
        source = folder if case.kind == "dicom" else main_file(folder)
        ours = read_folder(folder) if case.kind == "dicom" else read_tree(folder)
        return {OURS: judge_ours(case, ours), **{peer.title: peer.read(case, source) for peer in peers}}


def totals(rows: dict[str, tuple[Case, dict[str, Verdict]]], title: str) -> list[str]:
    """Of one reader: valid cases right, refused and wrong; faults refused, right and wrong."""
    valid = Counter(verdicts[title].word for case, verdicts in rows.values() if case.volumes)
    fault = Counter(verdicts[title].word for case, verdicts in rows.values() if not case.volumes)
    stopped = sum(count[word] for count in (valid, fault) for word in ("crash", "time out"))
    refused = valid["refused"] + valid["left"]
    numbers = (valid["right"], valid["part"], refused, valid["wrong"], fault["wrong"], valid["wrong"] + fault["wrong"],
               valid["left"] + fault["left"], stopped)  # fmt: skip
    return [str(number) for number in numbers]


SUMMARY = ("right", "only a part", "valid refused", "valid wrong", "fault wrong", "**silently wrong**", "wrong file left", "crash, hang")


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(columns), ["---"] * len(list(columns)), *map(list, rows)]
    return "".join("|" + "|".join(line) + "|\n" for line in lines)


def section(heading: str, rows: dict[str, tuple[Case, dict[str, Verdict]]], titles: list[str]) -> str:
    valid = sum(bool(case.volumes) for case, _ in rows.values())
    text = f"\n## {heading}: {len(rows)} cases, {valid} of them valid\n\n"
    text += table(("reader", *SUMMARY), ([title, *totals(rows, title)] for title in titles)) + "\n"
    lines = ([name, str(case.volumes), *(verdicts[title].text for title in titles)] for name, (case, verdicts) in rows.items())
    return text + table(("case", "volumes", *titles), lines)


HEADER = """# Fault cases: what readers make of them

Printed by `python tests/campaigns/fault_table.py` on {date}. All files are synthetic, made by the generators in `tests/scans/faults` of an
analytic field in patient space; none of this says how often a fault occurs in real data. Versions: {versions}.
{absent}Each reader was called as its documentation says for "a folder (or file) → a volume", each time in a process of its own with
{memory} MB and {clock:.0f} s; the calls stand in `tests/campaigns/peer_readers.py`.

`volumes` is how many a reader should return; 0: the case is a fault, or no image. In the cells stand

- ok: every voxel has the field's value where the affine puts it, to rounding (+n: other volumes came beside). For readers without our
  policy, padding that is kept and PET left in Bq/ml are right too. In a case of 0 volumes the voxels are right all the same, and refusing
  them is policy, or more caution than was needed.
- **e** (bold): silently wrong, returned as if all were well, but off by up to e (1 mm along z is 7)
- ref: refused by an exception, an exit code other than 0, or by returning nothing; left e: a file that is off by e was left behind
- n of m: only some of the volumes, each right
- acc: read, where no answer is right (colour, several numbers a voxel); crash, time out: what became of the process
- highdicom inverts MONOCHROME1 unless it is called with `apply_presentation_lut=False`; with that it is right on both cases
- a code in Vesalius's column: refused, or left out, for this reason ([reasons.md](reasons.md))
"""


def _is_there(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def page(results: dict[str, dict[str, tuple[Case, dict[str, Verdict]]]], peers: list[Peer], absent: list[str]) -> str:
    names = [*(peer.distribution for peer in peers), *filter(_is_there, ("pydicom", "pylibjpeg-openjpeg", "pyjpegls", "python-gdcm"))]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    missing = f"Not installed, so without a column: {', '.join(absent)}.\n" if absent else ""
    text = HEADER.format(date=datetime.date.today(), versions=versions, absent=missing, memory=MEMORY_MB, clock=CLOCK_S)
    for kind, heading in PARTS:
        if results.get(kind):
            text += section(heading, results[kind], [OURS, *(peer.title for peer in peers if kind in peer.kinds)])
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="words of which one stands in a case's name")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "faults.md")
    chosen = parser.parse_args()
    started = [Peer(name) for name in READERS]
    peers = [peer for peer in started if peer.is_there()]
    absent = [peer.title for peer in started if peer not in peers]
    results: dict[str, dict[str, tuple[Case, dict[str, Verdict]]]] = {}
    for found in tables():
        for name, case in found.items() if found.kind in dict(PARTS) else ():  # of files of several volumes readers take one at most
            if not case.lacks and (not chosen.only or any(word in name for word in chosen.only)):
                results.setdefault(case.kind, {})[name] = (case, run_case(case, peers))
                print(".", end="", file=sys.stderr, flush=True)
    for peer in peers:
        peer.close()
    text = page(results, peers, absent)
    print(text)
    if not chosen.only:
        chosen.out.write_text(text)
    bad = [name for rows in results.values() for name, (_, verdicts) in rows.items() if "**" in verdicts[OURS].text]
    print(f"{OURS}: {len(bad)} wrong or valid refused {bad if bad else ''}", file=sys.stderr)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
