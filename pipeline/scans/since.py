"""Whether the files of scans are still as `index` saw them, once their volumes are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.scans.content import detached_of, sources_of
from pipeline.scans.patience import patiently
from pipeline.scans.quarantine import REASONS, Code, Refused
from pipeline.volumes.jobs import Outcome
from pipeline.volumes.store import Store

if TYPE_CHECKING:
    import pandas as pd


def since_index(
    rows: pd.DataFrame, files: Mapping[str, Sequence[str]], labels: Mapping[str, Mapping[str, Sequence[str]]]
) -> Callable[[Outcome, set[str], Store], Outcome]:
    """What replaces an outcome by CHANGED, and takes its volume out of the store, if a file of its scans is not as `index` saw it.
    ``rows`` are a shard's; files by scan id, label files by scan id and task."""
    seen = {row.scan_id: (row.kind, row.content, row.channel) for row in rows.itertuples()}

    def same(scan: str) -> bool:
        kind, content, _ = seen[scan]
        try:
            paths = files.get(scan, ())
            detached = [item for path in paths for item in patiently(detached_of, kind, Path(path))]
            return sources_of(paths, detached, labels.get(scan, {})) == content
        except (OSError, Refused):
            return False

    def check(outcome: Outcome, scans: set[str], store: Store) -> Outcome:
        changed = None if outcome.kept else next((scan for scan in sorted(scans) if not same(scan)), None)
        if changed is None:
            return outcome
        store.remove(outcome.scan_id)
        return Outcome(outcome.scan_id, Code.CHANGED.value, *REASONS[Code.CHANGED], channel=seen[changed][2])

    return check
