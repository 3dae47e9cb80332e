"""Dates become days since a subject's first exam. No date leaves this module but as a difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pipeline.scans.stock import Found3D

DATES = ("StudyDate", "SeriesDate", "AcquisitionDate")


def date_of(values: Mapping[str, Any]) -> int:
    """Ordinal of the date of an exam by its DICOM elements, the first that holds a date; 0 where none does."""
    for word in DATES:
        text = str(values.get(word, "")).replace(".", "")  # ACR-NEMA wrote 1993.08.22
        try:
            if len(text) == 8 and text.isdecimal():
                return datetime.strptime(text, "%Y%m%d").toordinal()
        except ValueError:
            continue
    return 0


def first_dates(scans: Iterable[Found3D]) -> dict[str, int]:
    """subject_id -> date of the subject's first dated exam; a subject without one is left out."""
    first: dict[str, int] = {}
    for scan in scans:
        if scan.date:
            first[scan.subject_id] = min(scan.date, first.get(scan.subject_id, scan.date))
    return first
