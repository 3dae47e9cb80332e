"""What a study cost, and on what: seconds and peak memory of each stage, from Snakemake's benchmark files; the processor's name."""

from __future__ import annotations

import csv
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StageCost:
    """Seconds over all jobs of a stage, and the largest memory of one of them in MiB (0 where a job was too short to be measured)."""

    stage: str
    jobs: int
    seconds: float
    peak_mib: float


def stage_costs(benchmarks: Path) -> list[StageCost]:
    """Stages in the order in which they ended. A job that was killed and went on counts with its last part only."""
    stages: dict[str, list[tuple[float, float]]] = {}
    for path in sorted(benchmarks.rglob("*.tsv"), key=lambda path: path.stat().st_mtime_ns):
        name = path.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        with path.open() as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
        stages.setdefault(name, []).extend((float(row["s"]), _number(row.get("max_rss"))) for row in rows)
    return [StageCost(name, len(jobs), sum(job[0] for job in jobs), max(job[1] for job in jobs)) for name, jobs in stages.items() if jobs]


def processor() -> str:
    """The model's name, as the system gives it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:  # "NA"
        return 0.0
