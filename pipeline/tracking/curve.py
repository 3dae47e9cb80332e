"""What of a journal a dashboard already shows, so that a push adds what is new and notices what was written anew.

A run that goes back to a checkpoint (ten steps in a row that were not finite), that begins anew (another manifest), or that is resumed
where sums come out otherwise (a GPU, another number of ranks) writes other lines in the place of those that were pushed. A dashboard
cannot forget single points, so such a curve is drawn anew: what people see is the curve of the journal, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.files import digest_of

CURVES = ("train", "evaluate")


@dataclass(frozen=True)
class Pushed:
    """The last step of each kind of line; digests of how the run began and where it went back (``course``) and of all these lines
    (``said``), both without times; the time of the last line (unix seconds)."""

    steps: dict[str, int] = field(default_factory=dict)
    course: str = ""
    said: str = ""
    until: float = 0.0

    @staticmethod
    def read(text: str) -> Pushed:
        """The inverse of ``text``; nothing was pushed where there is none."""
        return Pushed(**json.loads(text)) if text else Pushed()

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def new(self, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Lines of curves that were not pushed."""
        return [entry for entry in entries if entry["kind"] in CURVES and entry["step"] > self.steps.get(entry["kind"], -1)]


def pushed(entries: Sequence[dict[str, Any]], steps: dict[str, int] | None = None) -> Pushed:
    """Of a journal's lines; of those up to ``steps`` where that is given."""
    last = {entry["kind"]: entry["step"] for entry in entries if entry["kind"] in CURVES} if steps is None else steps
    course = [_timeless(entry) for entry in entries if entry["kind"] == "start" or "first_sample" in entry]
    said = [_timeless(entry) for entry in entries if entry["kind"] in CURVES and entry["step"] <= last.get(entry["kind"], -1)]
    until = max((entry["time"] for entry in entries), default=0.0)
    return Pushed(last, digest_of(course), digest_of(said), until)


def compare(entries: Sequence[dict[str, Any]], before: Pushed) -> Literal["goes on", "is behind", "was rewritten"]:
    """A journal beside what was pushed of it. One that is behind is repeating steps after a resume, or is an older copy of the folder."""
    now, whole = pushed(entries, before.steps), pushed(entries).steps
    repeating = any(whole.get(kind, -1) < step for kind, step in before.steps.items())
    if not before.steps or (now.course == before.course and now.said == before.said and not repeating):
        return "goes on"
    if (repeating and now.course == before.course) or now.until <= before.until:
        return "is behind"
    return "was rewritten"


def _timeless(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if not name.startswith("time")}
