"""Which structures of a segmentation, or masks of one structure each, become which label value; and what happens where they overlap or
are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from pipeline.labels.companion import Structure
from pipeline.scans.quarantine import Code, Refused

CODE = "code:"
IGNORED = 0


@dataclass(frozen=True)
class Rule:
    """``claims``: (label value, names) in no order; a name may hold ``*``, ``?`` and ``[...]``, small and capital letters are the same;
    ``code:SCHEME:VALUE`` claims by the coded type. Value 0 claims what is left out. ``on_top``: values that lie over all others, the
    topmost first. ``threshold``: least share at which a voxel of a fractional segmentation is inside. ``classes``: all values of the task,
    claimed or not. ``overlapping``: "refuse", or "last" where the larger value takes what several claim."""

    claims: tuple[tuple[int, tuple[str, ...]], ...]
    may_be_absent: tuple[int, ...] = ()
    on_top: tuple[int, ...] = ()
    threshold: float | None = None
    classes: tuple[int, ...] = ()
    overlapping: str = "refuse"

    @property
    def values(self) -> tuple[int, ...]:
        """Label values, without 0."""
        return tuple(sorted({value for value, _ in self.claims} - {IGNORED}))

    def value_of(self, structure: Structure) -> int | None:
        """The value that claims a structure; None where none does; raises ``Refused`` where several do."""
        claiming = {value for value, names in self.claims if any(_claims(name, structure) for name in names)}
        if len(claiming) > 1:
            claiming.discard(IGNORED)
        if len(claiming) > 1:
            raise Refused(Code.LABELS_SEGMENTS)
        return claiming.pop() if claiming else None

    def values_of(self, structures: Sequence[Structure]) -> dict[int, int]:
        """Number of each structure -> its value; raises ``Refused`` if one is claimed by no value, or by several."""
        found = {item.number: self.value_of(item) for item in structures}
        if None in found.values():
            raise Refused(Code.LABELS_SEGMENTS)
        return found

    def wants(self, structures: Sequence[Structure]) -> bool:
        """Whether any structure is claimed by a class."""
        return any(
            _claims(name, structure) for structure in structures for value, names in self.claims if value != IGNORED for name in names
        )

    def settings(self) -> dict[str, Any]:
        """All that labels depend on, but for what is not said."""
        young = {"overlapping"} if self.overlapping == "refuse" else set()
        return {key: value for key, value in asdict(self).items() if key not in young}

    def may_lie_over(self, value: int) -> bool:
        """Whether a class may take voxels of those that were laid before it."""
        return value in self.on_top or self.overlapping == "last"

    def missing(self, present: Iterable[int]) -> set[int]:
        """Values that must be there and are not."""
        return set(self.values) - set(present) - set(self.may_be_absent)

    def check_all_there(self, present: Sequence[int]) -> None:
        """Raises ``Refused`` where a value is missing that may not be."""
        if self.missing(present):
            raise Refused(Code.LABELS_ABSENT)

    def layers(self) -> tuple[int, ...]:
        """Values in the order in which they are laid: those of ``on_top`` last."""
        return (*(value for value in self.values if value not in self.on_top), *reversed(self.on_top))


def rule_of(
    classes: Mapping[int, str], segments: Mapping[int, Sequence[str]] | None, may_be_absent: Sequence[int] = (),
    on_top: Sequence[int] = (), threshold: float | None = None, overlapping: str = "refuse",
) -> Rule:  # fmt: skip
    """Of a task's settings; without ``segments`` each class claims the structure of its own name."""
    claims = {value: (name,) for value, name in classes.items()} if segments is None else segments
    ordered = tuple((int(value), tuple(names)) for value, names in sorted(claims.items()))
    return Rule(ordered, tuple(sorted(may_be_absent)), tuple(on_top), threshold, tuple(sorted(classes)), overlapping)


def _claims(name: str, structure: Structure) -> bool:
    if name.startswith(CODE):
        return name.removeprefix(CODE) in structure.codes
    return _plain(structure.name) == _plain(name) or fnmatchcase(_plain(structure.name), _plain(name))


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
