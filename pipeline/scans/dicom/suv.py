"""Standardised uptake values by body weight of classic PET slices.

SUVbw = activity concentration in Bq/ml * weight in g / injected dose in Bq, the dose decayed to the time that the image is corrected to
(QIBA FDG-PET/CT profile, vendor-neutral pseudo-code). Stored units are kept unless every input is there and beyond doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pipeline.scans.dicom.headers import SUV_INPUTS
from pipeline.scans.dicom.objects import read_object
from pipeline.scans.dicom.slices import Slice


def suv_factor(slices: Sequence[Slice]) -> float:
    """What turns the stored Bq/ml of a series into SUV; 1 where they are no Bq/ml or an input is missing, odd or not of one mind."""
    factors = {_factor(header) for header in _headers(slices)}
    return factors.pop() if len(factors) == 1 else 1.0


def is_suv(slices: Sequence[Slice]) -> bool:
    """Whether the values of a series are read as SUV: because they become so here, or are stored so (g/ml, by body weight)."""
    headers = _headers(slices)
    try:
        if all(header.get("Units") == "GML" and header.get("SUVType", "BW") == "BW" for header in headers):
            return True
    except Exception:  # pydicom reads an element when it is asked for, and then raises what it likes
        return False
    factors = {_factor(header) for header in headers}
    return len(factors) == 1 and factors != {1.0}


def _headers(slices: Sequence[Slice]) -> list[Any]:
    """What SUV depends on, once for all slices of which it is the same: pydicom reads it, in a millisecond each."""
    paths = {item.suv or str(item.path): item.path for item in slices}
    return [read_object(path, pixels=False, only=SUV_INPUTS) for path in paths.values()]


def _factor(header: Any) -> float:
    try:
        if header.Units != "BQML" or "ATTN" not in header.CorrectedImage or "DECY" not in header.CorrectedImage:
            return 1.0
        tracer = header.RadiopharmaceuticalInformationSequence
        if len(tracer) != 1:
            return 1.0
        weight, dose = float(header.PatientWeight), float(tracer[0].RadionuclideTotalDose)
        if not (2 <= weight <= 500 and 1e6 <= dose <= 1e11):
            return 1.0
        if header.DecayCorrection == "ADMIN":
            return weight * 1000 / dose
        if header.DecayCorrection != "START":
            return 1.0
        waited, half_life = _waited(header, tracer[0]), float(tracer[0].RadionuclideHalfLife)
        if not (0 <= waited <= 6 * 3600 and 60 <= half_life <= 1e6):
            return 1.0
        return weight * 1000 / (dose * math.exp2(-waited / half_life))
    except Exception:  # an input that is missing or odd; and pydicom raises what it likes on a damaged one
        return 1.0


def _waited(header: Any, tracer: Any) -> float:
    """Seconds from injection to the start of the scan. The series time counts only if no slice was acquired before it: stations that
    process images later rewrite it."""
    start = _time(header.SeriesDate, header.SeriesTime)
    if _time(header.AcquisitionDate, header.AcquisitionTime) < start:
        raise ValueError
    if tracer.get("RadiopharmaceuticalStartDateTime"):
        text = str(tracer.RadiopharmaceuticalStartDateTime)
        injected = _time(text[:8], text[8:].partition("+")[0].partition("-")[0])
    else:
        injected = _time(header.SeriesDate, tracer.RadiopharmaceuticalStartTime)
        if injected > start:
            injected -= timedelta(days=1)
    return (start - injected).total_seconds()


def _time(date: Any, time: Any) -> datetime:
    whole, _, part = str(time).partition(".")
    return datetime.strptime(f"{date}{whole}", "%Y%m%d%H%M%S") + timedelta(seconds=float(f"0.{part or 0}"))
