"""The journal of a run: one JSON object a line. Files are the truth; dashboards mirror them.

Kinds: ``start`` (who: run, recipe, seed, version, manifest_digest), ``train`` and ``evaluate`` (step, metrics), ``note``
(step, text), ``end`` (step). Wall-clock stands only under ``time`` (unix seconds), so that two equal runs differ nowhere else.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any


class Journal:
    """Appends lines to a file; each line is written at once and whole."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, kind: str, **values: Any) -> None:
        """One line. Numbers that are not finite become strings, since JSON has none."""
        line = json.dumps({"kind": kind, "time": round(time.time(), 3), **_finite(values)}, sort_keys=True) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def position(self) -> int:
        """Length in bytes: what a checkpoint remembers."""
        return self.path.stat().st_size if self.path.exists() else 0

    def truncate(self, position: int) -> None:
        """Forgets what was written after a checkpoint, since the resumed run writes it again."""
        if self.path.exists():
            os.truncate(self.path, min(position, self.position()))


class Silence(Journal):
    """The journal of a rank that does not lead: nothing is written."""

    def __init__(self) -> None:
        super().__init__(os.devnull)

    def write(self, kind: str, **values: Any) -> None:
        pass

    def position(self) -> int:
        return 0

    def truncate(self, position: int) -> None:
        pass


def read_journal(path: Path | str) -> list[dict[str, Any]]:
    """All whole lines; a last line torn by a kill is left out. A missing journal is empty."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} is no JSON; move the file away and run the stage again") from error
    return entries


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
