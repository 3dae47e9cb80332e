"""What takes the place of a crop that cannot be read: always the same one, so that every run of the same files sees the same batches.

A substitute belongs to a sample, not to a rank or a moment: no rank ever leaves out a sample by itself, which would pair its next
all-reduce with another step's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.keys import key

RETRIES_S = (0.1, 0.5)  # waits before an EIO or ESTALE of a network file system is believed
ATTEMPTS = 16


@dataclass(frozen=True)
class Unread:
    """A sample whose own crop could not be read, and why."""

    sample: int
    scan_id: str
    reason: str


@dataclass
class Substitutes:
    """``scan_of(sample)`` names the scan that a sample's crop lies in. ``unread`` is emptied by the loop, step by step."""

    scan_of: Callable[[int], str]
    unread: dict[int, list[Unread]] = field(default_factory=dict)

    def read(self, read: Callable[[int], dict[str, Any]], sample: int) -> dict[str, Any]:
        """The sample's item, or that of the next number by hash; it keeps the sample's own number, from which views draw."""
        number, found = sample, []
        for attempt in range(ATTEMPTS):
            try:
                item = {**_patiently(read, number), "sample": sample}
                break
            except (OSError, ValueError) as error:
                found.append(Unread(sample, self.scan_of(number), error.strerror if isinstance(error, OSError) else _short(error)))
                number = key("substitute", sample, attempt) >> 16
        else:
            scans = ", ".join(sorted({unread.scan_id for unread in found})[:10])
            raise ValueError(
                f"store: {ATTEMPTS} crops in a row could not be read (scans {scans}: {found[0].reason}); run `vesalius verify`"
            )
        if found:
            self.unread[sample] = found
        return item

    def take(self, samples: range) -> list[Unread]:
        """What was substituted in these samples."""
        return [unread for sample in samples for unread in self.unread.pop(sample, ())]


def allowed(share: float, num_samples: int) -> int:
    """How many unread crops a run of so many samples may have; one is never too many."""
    return max(1, math.ceil(share * num_samples))


def _patiently(read: Callable[[int], dict[str, Any]], number: int) -> dict[str, Any]:
    for wait_s in RETRIES_S:
        try:
            return read(number)
        except OSError:
            time.sleep(wait_s)
    return read(number)


def _short(error: Exception) -> str:
    """The reason without the path, which is no business of a journal."""
    return str(error).rpartition(": ")[2][:200]
