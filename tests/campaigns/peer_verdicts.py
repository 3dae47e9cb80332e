"""The verdict on what a reader made of a fault case, by the analytic field that the case was made of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
from faults.cases import Case
from faults.outcome import Outcome
from faults.phantom import error, expected

from anatomy.grid import Grid

MOST_VOLUMES = 6  # beyond which orders of volumes are not tried
LARGE = 1e30
NO_FIELD = {
    "DIMENSIONS",
    "DATA_TYPE",
    "COLOUR",
}  # faults that are no volumes of one number a voxel: what to make of them is anyone's choice


@dataclass(frozen=True)
class Verdict:
    """``word``: right, part (some of the volumes), wrong, accepted (where nothing is right or wrong), refused, left (refused, but a wrong
    file stands), crash or time out."""

    word: str
    text: str


def volume_of(array: np.ndarray, affine: np.ndarray) -> Any:
    """What stands in for a Volume, of any type and with any affine: the checks of cases look at voxels and grid."""
    try:
        grid: Any = Grid(array.shape, affine)
    except ValueError:  # a reader may place voxels nowhere
        grid = SimpleNamespace(shape=array.shape, affine=np.asarray(affine, float))
    return SimpleNamespace(voxels=np.asarray(array)[None], grid=grid)


def in_types(volumes: list[Any]) -> list[list[Any]]:
    """Volumes as they are, and in the types that ours have: which type holds the numbers is no fault of a reader."""
    found = [volumes]
    for kind in (np.int16, np.float32):
        with np.errstate(invalid="ignore"):
            cast = [SimpleNamespace(voxels=volume.voxels.real.astype(kind), grid=volume.grid) for volume in volumes]
        if all(np.allclose(new.voxels, old.voxels, rtol=1e-6, atol=0) for new, old in zip(cast, volumes, strict=True)):
            found.append(cast)
    return found


def judge(case: Case, volumes: list[Any], claims: bool) -> Verdict:
    """A reader is right if the right volumes are among what it returned, in any order."""
    if not volumes:
        return Verdict("refused", "ref")
    if not case.volumes and NO_FIELD & set(case.codes):
        return Verdict("accepted", "acc") if claims else Verdict("refused", "ref")
    errors = [_error(case, volume) for volume in volumes]
    right = _is_right(case, volumes, errors)
    if not claims:
        return Verdict("refused", "ref") if right else Verdict("left", f"ref, left {_short(max(errors))}")
    if right:
        extra = len(volumes) - max(case.volumes, 1)
        return Verdict("right", f"ok +{extra}" if extra > 0 and case.volumes else "ok")
    fit = sum(one <= case.tolerance for one in errors)
    if fit == len(volumes) < case.volumes:
        return Verdict("part", f"{fit} of {case.volumes}")
    return Verdict("wrong", f"**{_short(max(errors))}**")


def _is_right(case: Case, volumes: list[Any], errors: list[float]) -> bool:
    if not case.volumes:
        return max(errors) <= case.tolerance
    if len(volumes) < case.volumes:
        return False
    if case.fair is None and case.check is not None:
        return any(_passes(case.check, list(some)) for some in permutations(volumes[:MOST_VOLUMES], case.volumes))
    if len(case.offsets) == case.volumes > 1:
        return all(any(_finite(error, volume, offset) <= case.tolerance for volume in volumes) for offset in case.offsets)
    return sum(one <= case.tolerance for one in errors) >= case.volumes


def _passes(check: Any, volumes: list[Any]) -> bool:
    try:
        return any(check(Outcome(some, [0] * len(some))) for some in in_types(volumes))
    except Exception:  # a check meets arrays of any shape and type here
        return False


def _error(case: Case, volume: Any) -> float:
    if case.fair is not None:
        return _finite(case.fair, volume)
    if "NOT_FINITE" in case.codes:  # a reader that keeps what a file holds is right; one that makes numbers of it is not
        return _finite(_kept, volume)
    return min(_finite(error, volume, offset) for offset in case.offsets)


def _kept(volume: Any) -> float:
    off = np.abs(volume.voxels[0].astype(float) - expected(volume))
    return float(off[np.isfinite(off) & (off < LARGE)].max(initial=0.0))


def _finite(measure: Any, *values: Any) -> float:
    try:
        found = float(measure(*values))
    except (TypeError, ValueError, IndexError):
        return np.inf
    return found if np.isfinite(found) else np.inf


def _short(value: float) -> str:
    return f"{value:.0f}" if 10 <= value < 1e6 else f"{value:.2g}" if np.isfinite(value) else "∞"


def judge_ours(case: Case, outcome: Outcome) -> Verdict:
    """Ours must also give the reason that the case names, and nothing but the volumes that it names."""
    verdict = case.verdict(outcome)
    codes = " ".join(sorted(outcome.codes))
    if verdict in ("right", "refused"):
        word = "ok" if verdict == "right" else ""
        return Verdict(verdict, f"{word} {codes}".strip() or "no image")
    if len(outcome.volumes) < case.volumes:
        return Verdict("refused", f"**valid refused** ({codes})")
    return Verdict("wrong", f"**{verdict}**")
