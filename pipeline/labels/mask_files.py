"""Which image a mask of one structure belongs to, by its folder, and which class of a task it is, by its name.

All masks of an image are taken or none: where one that the task asks for is missing, or there twice, the image has no labels of that task.
A mask that no class claims is left out; it is a companion of its image all the same, and is forgotten with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from pipeline.labels.masks import value_of
from pipeline.labels.matching import Owners
from pipeline.labels.rule import Rule
from pipeline.scans.folders.belonging import structure_of
from pipeline.scans.labelling import VOLUMES, images_of, owner_of
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.stock import File, Inventory


@dataclass(frozen=True)
class MaskTask:
    """A task with masks: the folder of its labels, which several tasks may share; which file is which class; names of the classes."""

    folder: str
    rule: Rule
    names: Mapping[int, str]


@dataclass
class Matched:
    """``claims``: (scan_id, task) -> (number of the file, label value); ``refused``: number of the file -> its first code; ``lacking``:
    (task, label value) -> images without such a mask, of the others that have masks; ``seen``: values of a task that any file has."""

    claims: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[int, Code] = field(default_factory=dict)
    lacking: Counter[tuple[str, int]] = field(default_factory=Counter)
    seen: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    owners: Owners = field(default_factory=lambda: defaultdict(dict))


def match_masks(found: Inventory, tasks: Mapping[str, MaskTask], channels: Sequence[str] = ()) -> Matched:
    """Whose all masks are, and sets the files' scan ids; what is claimed and belongs nowhere is quarantined."""
    out = Matched()
    if not tasks:
        return out
    images, folder, owner, code = images_of(found, channels), None, None, None
    for number, file in found.files.numbered(status="companion"):
        if file.place.task not in tasks or file.kind not in VOLUMES:
            continue
        here = (file.place, PurePosixPath(file.relative).parent)
        if here != folder:  # of one folder all masks belong to one image
            folder, scans = here, [found.scans[item] for item in images.beside(file.relative)]
            owner, code = owner_of(scans, channels), Code.LABELS_AMBIGUOUS if scans else Code.LABELS_WITHOUT_IMAGE
        claimed = False
        for task in [name for name, item in tasks.items() if item.folder == tasks[file.place.task].folder]:
            claimed |= _claim(out, task, tasks[task].rule, number, file, owner.scan_id if owner else "")
        if owner is not None:
            found.files[number] = replace(file, scan_id=owner.scan_id)
        elif claimed:
            out.refused[number] = code
    _settle(out, found, tasks)
    return out


def _claim(out: Matched, task: str, rule: Rule, number: int, file: File, scan_id: str) -> bool:
    """Whether a class of the task claims a file."""
    try:
        value = value_of(PurePosixPath(file.relative), rule)
    except Refused as refused:
        out.refused.setdefault(number, refused.code)
        return True
    if value is not None:
        out.seen[task].add(value)
        if scan_id:
            out.claims[scan_id, task].append((number, value))
    return value is not None


def _settle(out: Matched, found: Inventory, tasks: Mapping[str, MaskTask]) -> None:
    """Owners, and the files' codes: a file that one task could use is no loss."""
    for (scan_id, task), own in sorted(out.claims.items()):
        rule = tasks[task].rule
        missing = rule.missing(value for _, value in own)
        out.lacking.update((task, value) for value in missing)
        twice = _repeated(found, [number for number, _ in own])
        if twice or missing:
            for number in twice or [number for number, _ in own]:
                out.refused.setdefault(number, Code.LABELS_AMBIGUOUS if twice else Code.LABELS_ABSENT)
        else:
            out.owners[scan_id][task] = tuple(found.files[number].file_id for number, _ in own)
    used = {file for owned in out.owners.values() for files in owned.values() for file in files}
    for number, code in sorted(out.refused.items()):
        file = replace(found.files[number], status="quarantined", code=code)
        if file.file_id in used:
            found.parts.append(file)
        else:
            found.files[number] = file


def _repeated(found: Inventory, numbers: Sequence[int]) -> list[int]:
    """Of the masks of one image, those of one name in several folders or formats."""
    by_name = defaultdict(list)
    for number in numbers:
        by_name[structure_of(PurePosixPath(found.files[number].relative))[-1].casefold()].append(number)
    return [number for same in by_name.values() if len(same) > 1 for number in same]


def told_of_masks(matched: Matched, tasks: Mapping[str, MaskTask]) -> Iterator[str]:
    """Lines for the log: how many images have the masks of each task, and which are missing how often. Names are those of the classes."""
    for task, item in tasks.items():
        whole = sum(task in owned for owned in matched.owners.values())
        some = sum(1 for _, name in matched.claims if name == task)
        lacking = sorted(((count, value) for (name, value), count in matched.lacking.items() if name == task), reverse=True)
        told = ", ".join(f"{item.names.get(value, value)} {count}" for count, value in lacking[:20])
        rest = f" and {len(lacking) - 20} classes more" if len(lacking) > 20 else ""
        yield f"task {task}: {whole} scans have all their masks" + (
            f"; {some - whole} have some and are used without labels; missing are: {told}{rest}" if some > whole else ""
        )


def check_masks(matched: Matched, tasks: Mapping[str, MaskTask]) -> None:
    """A class whose mask no image has, or a task none of whose images has all masks, is a mistake of the study."""
    for task, item in tasks.items():
        never = [item.names.get(value, str(value)) for value in item.rule.values if value not in matched.seen[task]]
        if never:
            raise ValueError(
                f"tasks.{task}.masks: no file below its `labels` is called like {', '.join(never[:20])}"
                f"{f' and {len(never) - 20} classes more' if len(never) > 20 else ''}, and like no other class; mend the names under "
                f"`masks`, or take the class out"
            )
        if any(task in owned for owned in matched.owners.values()):
            continue
        if any(name == task for _, name in matched.claims):
            raise ValueError(
                f"tasks.{task}.masks: no scan has all masks that it asks for; quarantine.tsv says why. Take out classes that many scans "
                f"lack, or list them under `may_be_absent`, if a missing file means that the patient has no such structure"
            )
        raise ValueError(
            f"tasks.{task}.labels: none of its masks lies in a folder that belongs to one image of `sources`: masks of case01/ct.nii.gz, "
            f"or of case01.nii.gz, lie below case01 (docs/labels.md)"
        )
