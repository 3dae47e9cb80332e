"""The names of everything in a study's folder, ``results/<study>/``: one place that knows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudyFolder:
    """Paths only; nothing here reads or writes."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def sample(self) -> Path:
        """What the ``sample`` stage made or found: origins, licences, digests."""
        return self.root / "sample.json"

    @property
    def sources(self) -> Path:
        """Size and time of every source file, hashed: rewritten only when something changed, so that ``index`` wakes."""
        return self.root / "sources.txt"

    @property
    def inventory(self) -> Path:
        return self.root / "inventory.tsv"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine.tsv"

    def shard(self, shard: str) -> Path:
        """What ``index`` found for one shard: a row a scan."""
        return self.root / "shards" / f"{shard}.tsv"

    def shard_manifest(self, shard: str) -> Path:
        """Manifest rows of one shard, before the split."""
        return self.root / "shards" / f"{shard}.parquet"

    def shard_refused(self, shard: str) -> Path:
        """Scans that ``preprocess`` refused, in the columns of ``quarantine.tsv``."""
        return self.root / "shards" / f"{shard}.refused.tsv"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.parquet"

    def run(self, run: str) -> Path:
        return self.root / "runs" / run

    def encoder(self, run: str) -> Path:
        return self.run(run) / "encoder.safetensors"

    def journal(self, run: str) -> Path:
        return self.run(run) / "journal.jsonl"

    def embeddings(self, run: str) -> Path:
        return self.root / "embeddings" / f"{run}.parquet"

    def lexicon(self, lexicon: str) -> Path:
        return self.root / "lexicons" / f"{lexicon}.parquet"

    @property
    def lexicon_all(self) -> Path:
        """Every lexicon of the study in one table, with a column ``lexicon``."""
        return self.root / "lexicon.parquet"

    def transfer(self, transfer: str) -> Path:
        return self.root / "transfers" / transfer

    def cases(self, transfer: str) -> Path:
        """Per-case results of one initialisation on one task."""
        return self.transfer(transfer) / "cases.parquet"

    @property
    def verdict(self) -> Path:
        return self.root / "verdict.tsv"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def benchmarks(self) -> Path:
        return self.root / "benchmarks"
