"""DICOM slices on disk until all of a source are known; then back a series at a time, wherever its files lay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from itertools import groupby
from operator import itemgetter
from typing import Any

from pipeline.scans.dicom.slices import Slice
from pipeline.scans.spool import Spool, cell, from_cell
from pipeline.scans.stock import File, Place

HEADER = tuple(field.name for field in fields(Slice) if field.name != "path")


class Slices:
    """The slices of one source."""

    def __init__(self, place: Place) -> None:
        self._place, self._spool = place, Spool()
        self._spool.run("CREATE TABLE slices (number INTEGER PRIMARY KEY, series, file_id, relative, header)")

    def add(self, file: File, header: Slice) -> None:
        rest = json.dumps([getattr(header, name) for name in HEADER])
        cells = repr(header.series), file.file_id, file.relative
        self._spool.run("INSERT INTO slices VALUES (NULL, ?, ?, ?, ?)", (*map(cell, cells), rest))

    def by_series(self) -> Iterator[list[tuple[File, Slice]]]:
        """Sorted by the series' UID as Python writes it; within a series in the order of ``add``."""
        self._spool.run("CREATE INDEX by_series ON slices (series)")
        rows = self._spool.run("SELECT series, file_id, relative, header FROM slices ORDER BY series, number")
        for _, own in groupby(rows, itemgetter(0)):
            same: dict[Any, Any] = {}
            yield [
                self._slice(from_cell(file_id), from_cell(relative), dict(zip(HEADER, _tuples(json.loads(header)), strict=True)), same)
                for _, file_id, relative, header in own
            ]

    def _slice(self, file_id: str, relative: str, header: dict[str, Any], same: dict[Any, Any]) -> tuple[File, Slice]:
        """``same`` holds what slices have in common once for all of them: half of the memory."""
        file = File(file_id, relative, self._place, "not_image", kind="dicom")
        common = {name: same.setdefault(header[name], header[name]) for name in ("key", "traits", "orientation")}
        return file, Slice(file.path, **(header | common))


def _tuples(value: Any) -> Any:
    """All that a slice holds several of are tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
