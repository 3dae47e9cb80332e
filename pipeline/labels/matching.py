"""Which scan a segmentation or structure set belongs to, by what it refers to: never by its name, and never by likeness.

It belongs to the scan of the series that it refers to; where that series became several scans (time points, b-values, stacks of an enhanced
object), to the one whose images it cites; where it names no series, to the one in its study whose images it cites. All that headers say
against it is found here, before a voxel is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.files import digest
from pipeline.labels.companion import STRUCTURE_SET, Companion
from pipeline.labels.image import Image, check_belongs, check_frame, read_image
from pipeline.labels.names import Named, named
from pipeline.labels.reading import described
from pipeline.labels.rule import Rule
from pipeline.scans.dicom.elements import read_elements
from pipeline.scans.identity import Identity
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.stock import File, Found3D, Inventory

NOT_TAKEN = ("quarantined", "left_out")
Owners = dict[str, dict[str, tuple[str, ...]]]


def match_companions(
    found: Inventory, rules: Mapping[str, Rule], everywhere: Sequence[str], identity: Identity, channels: Sequence[str] = ()
) -> tuple[Owners, list[Named]]:
    """(scan_id -> {task: file_ids}, names of all structures looked at), and sets the files' scan ids; what belongs nowhere is quarantined.

    ``rules`` by task; ``everywhere``: tasks whose labels are those found among the scans, not in a folder of their own.
    """
    scans, verdicts, names = _Scans(found, identity, channels), _Verdicts(), []
    known: dict[str, tuple[int, str]] = {}
    for number, file in found.files.numbered(status="companion", kind="dicom"):
        tasks = [file.place.task] if file.place.task else list(everywhere)
        if not tasks:
            continue
        try:
            companion = described(file.path)
            if _is_repeat(companion, number, file, known, verdicts):
                continue
        except Refused as refused:
            verdicts.refused[number].append(refused.code)
            continue
        for task in tasks:
            if file.place.task or rules[task].wants(companion.structures):
                names += named(file.file_id, file.path, task, companion, rules[task])
                verdicts.take(number, task, companion, rules[task], scans)
    return verdicts.settled(found, rules), names


def _is_repeat(companion: Companion, number: int, file: File, known: dict[str, tuple[int, str]], verdicts: _Verdicts) -> bool:
    """Whether the file is a copy of another; raises ``Refused`` where two files claim to be one object but differ."""
    content = digest(file.path)
    first, seen = known.setdefault(companion.instance, (number, content))
    if seen != content:
        verdicts.refused[first].append(Code.CONFLICT)
        raise Refused(Code.CONFLICT)
    return first != number


@dataclass
class _Verdicts:
    """``taken``: (scan_id, task) -> (number of the file, values that it claims); ``refused``: number of the file -> reasons."""

    taken: dict[tuple[str, str], list[tuple[int, set[int]]]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[int, list[Code]] = field(default_factory=lambda: defaultdict(list))

    def take(self, number: int, task: str, companion: Companion, rule: Rule, scans: _Scans) -> None:
        try:
            owner = scans.owner(companion)
            image = scans.image(owner)
            check_belongs(companion, image)
            values = rule.values_of(companion.structures)
            frames = {companion.frames(item) for item, value in values.items() if value} if companion.sop_class == STRUCTURE_SET else ()
            for frame in frames or {companion.frame}:
                check_frame(frame, image)
            self.taken[owner.scan_id, task].append((number, set(values.values()) - {0}))
        except Refused as refused:
            self.refused[number].append(refused.code)

    def settled(self, found: Inventory, rules: Mapping[str, Rule]) -> Owners:
        """Who owns what, once all objects of a scan are known; and what became of each file."""
        owners: Owners = defaultdict(dict)
        for (scan, task), own in sorted(self.taken.items()):
            own = [(number, values) for number, values in own if Code.CONFLICT not in self.refused.get(number, ())]
            claimed = [value for _, values in own for value in values]
            try:
                if len(set(claimed)) < len(claimed):
                    raise Refused(Code.LABELS_AMBIGUOUS)
                rules[task].check_all_there(claimed)
            except Refused as refused:
                for number, _ in own:
                    self.refused[number].append(refused.code)
                continue
            owners[scan][task] = tuple(found.files[number].file_id for number, _ in own)
        scans = {number: scan for (scan, task), own in self.taken.items() for number, _ in own if task in owners.get(scan, ())}
        for number, scan in scans.items():
            found.files[number] = replace(found.files[number], scan_id=scan)
        for number, codes in sorted(self.refused.items()):
            refused = replace(found.files[number], status="quarantined", code=codes[0])
            if number in scans:  # another task could use it
                found.parts.append(refused)
            else:
                found.files[number] = refused
        return {scan: tasks for scan, tasks in owners.items() if tasks}


class _Scans:
    """DICOM scans by what labels can refer to."""

    def __init__(self, found: Inventory, identity: Identity, channels: Sequence[str]) -> None:
        self.found, self.identity, self.channels = found, identity, channels
        self.images: dict[str, Image] = {}
        self.left_out: set[str] | None = None

    def image(self, scan: Found3D) -> Image:
        """What the headers of a scan say; kept of the scan that was asked for last."""
        if scan.scan_id not in self.images:
            self.images = {scan.scan_id: read_image(scan.kind, tuple(scan.paths))}
        return self.images[scan.scan_id]

    def owner(self, companion: Companion) -> Found3D:
        """The scan that labels belong to; raises ``Refused``."""
        if not companion.series and not companion.cited:
            raise Refused(Code.LABELS_UNREFERENCED)
        own = [scan for series in sorted(companion.series) for scan in self.found.scans.where(series=series)]
        exam = self.identity("exam", companion.study)
        near = own if companion.series else [scan for scan in self.found.scans.where(exam_id=exam) if scan.series]
        cited = [scan for scan in near if self.image(scan).holds(companion.cited)]
        if len(cited) > 1:
            return self._first_channel(cited)
        if cited:
            return cited[0]
        if not own or self._cites_what_was_refused(companion):
            raise Refused(Code.LABELS_WITHOUT_IMAGE)
        return own[0] if len(own) == 1 else self._first_channel(own)

    def _first_channel(self, scans: list[Found3D]) -> Found3D:
        """Of channels of one exam: their labels lie on the grid of the first."""
        if not self.channels or len({scan.exam_id for scan in scans}) > 1 or len({scan.channel for scan in scans}) < len(scans):
            raise Refused(Code.LABELS_AMBIGUOUS)
        return min(scans, key=lambda scan: self.channels.index(scan.channel) if scan.channel in self.channels else len(self.channels))

    def _cites_what_was_refused(self, companion: Companion) -> bool:
        """Whether labels cite an image that was quarantined or left out; of a series whose images were all renamed they cite nothing that
        is known."""
        if self.left_out is None:
            files = (file for file in self.found.files.where(kind="dicom", status=NOT_TAKEN) if file.scan_id)
            self.left_out = {instance for file in files if (instance := _instance(file))}
        return any(instance in self.left_out for instance, _ in companion.cited)


def _instance(file: File) -> str:
    try:
        return read_elements(file.path).values.get("SOPInstanceUID", "")
    except Refused:
        return ""


def check_tasks(found: Inventory, owners: Owners, folders: Mapping[str, str]) -> None:
    """A task none of whose labels has an image is a mistake of the study, not of a file. ``folders``: task -> folder of its labels, if it
    has one."""
    owned = {task for tasks in owners.values() for task in tasks}
    for task, folder in sorted(folders.items()):
        if task in owned:
            continue
        own = (file for file in found.files if (file.place.task == task if folder else file.kind == "dicom" and not file.place.task))
        own = [file for file in own if file.kind in ("nifti", "metaimage") or file.status != "volume"]
        if any(file.kind in ("nifti", "metaimage") for file in own):
            raise ValueError(
                f"tasks.{task}.labels: none of its {len(own)} files belongs to one image of `sources`; name each like its image, or like "
                f"the folder of its DICOM series (docs/labels.md says which names and places go together)"
            )
        raise ValueError(
            f"tasks.{task}: no DICOM segmentation or structure set{' in its `labels`' if folder else ' among the scans'} could be used for "
            f"it; quarantine.tsv says why, and segments.tsv in the study's private folder ($VESALIUS_PRIVATE, default ~/.vesalius) lists "
            f"what their structures are called; name them under `segments` of the task"
        )
