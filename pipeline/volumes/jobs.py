"""One volume of the store to be, from its source files to the store: what a worker process does.

How files are read is the caller's: a reader takes (kind, paths), and of labels a ``LabelSource`` and the grid of their image; it returns a
Volume, and raises ``RefusedVolumeError``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.files import digest_of
from pipeline.volumes.memory import at_most
from pipeline.volumes.preparation import LostLabels, LowInformationError, guess_modality, prepare
from pipeline.volumes.resample import onto
from pipeline.volumes.store import Store
from pipeline.volumes.volume import Volume

FORMAT = 4  # of the store: raise it when the same settings give other bytes; by plan.json the rule `preprocess` hears of it
KNOWN = ("CT", "MR", "PT")
TOO_LARGE = (
    "TOO_LARGE",
    "Preparing the scan takes more memory than a worker may use.",
    "Give each worker more: `vesalius preprocess --memory-mb`, or mem_mb of the rule preprocess.",
)
Reader = Callable[..., Volume]


class RefusedVolumeError(ValueError):
    """A volume that cannot be used, with a reason code and a remedy; ``paths`` of the files at fault, if those are not all; of several
    channels, the ``channel`` that it would have been."""

    def __init__(self, code: str, reason: str, remedy: str, paths: tuple[str, ...] = ()) -> None:
        super().__init__(code, reason, remedy, paths)
        self.code, self.reason, self.remedy, self.paths, self.channel = code, reason, remedy, paths, ""


@dataclass(frozen=True)
class Part:
    """One channel: a scan as the index found it. A modality other than CT, MR, PT is guessed from the voxels."""

    scan_id: str
    kind: str
    paths: tuple[str, ...]
    modality: str
    channel: str


def form_of(kind: str) -> str:
    """sform or qform, where the kind of a file names the one that places its voxels (``nifti:qform-3``)."""
    part = kind.partition(":")[2]
    return part[:5] if part.startswith(("sform", "qform")) else ""


@dataclass(frozen=True)
class LabelSource:
    """The labels of a task: a label volume; or (``dicom``) objects that become one by a rule on the grid of their image, which is read from
    ``image``, (kind, paths); or (``masks``) files of one structure each. ``values`` that the volume may hold besides 0; none is any."""

    kind: str
    paths: tuple[str, ...]
    values: tuple[int, ...] = ()
    rule: Any = None
    image: tuple[str, tuple[str, ...]] = ("", ())


@dataclass(frozen=True)
class Job:
    """All that a worker needs. ``identity`` goes into the meta as it is; ``labels`` by task."""

    scan_id: str
    identity: dict[str, str]
    parts: tuple[Part, ...]
    labels: dict[str, LabelSource]
    content: str
    settings: dict[str, Any]
    store: str

    @property
    def content_digest(self) -> str:
        """What must be unchanged for the stored volume to stay."""
        parts = [(part.scan_id, part.modality, part.channel, *filter(None, [form_of(part.kind)])) for part in self.parts]
        return digest_of([FORMAT, self.identity, parts, sorted(self.labels), self.content, self.settings])


@dataclass(frozen=True)
class Outcome:
    """What became of a job: stored if it has no code, without the labels that were ``lost``. ``channel``: of its exam, the one
    that it was refused for, if it is known."""

    scan_id: str
    code: str = ""
    reason: str = ""
    remedy: str = ""
    kept: bool = False
    lost: tuple[LostLabels, ...] = ()
    channel: str = ""


def process(job: Job, read: Reader, memory_mb: int | None = None) -> Outcome:
    """Reads, prepares and stores one volume, unless it is stored already. What takes more memory than ``memory_mb`` is refused."""
    store = Store(job.store)
    if is_done(job, store):
        return Outcome(job.scan_id, kept=True)
    try:
        with at_most(memory_mb):
            return _made(job, read, store)
    except MemoryError:
        store.remove(job.scan_id)
        return Outcome(job.scan_id, *TOO_LARGE)


def _made(job: Job, read: Reader, store: Store) -> Outcome:
    try:
        volume, modalities = read_parts(job.parts, read)
        labels, lost = read_labels(job.labels, volume.grid, read)
        values = {task: source.values for task, source in job.labels.items()}
        done = prepare(volume, modalities, labels, values=values, **job.settings)
    except RefusedVolumeError as error:
        store.remove(job.scan_id)
        return Outcome(job.scan_id, error.code, error.reason, error.remedy, channel=error.channel)
    except LowInformationError as error:
        store.remove(job.scan_id)
        channel = "" if error.channel is None or len(job.parts) == 1 else job.parts[error.channel].channel
        remedy = "nothing to do, if it is a scout, a mask or a test file"
        return Outcome(job.scan_id, "LOW_INFORMATION", str(error), remedy, channel=channel)
    meta = {**job.identity, "channels": [part.channel for part in job.parts], "content": job.content_digest, **done.meta}
    store.write(job.scan_id, done.voxels, done.body, meta, done.labels, done.fingerprint.packed())
    return Outcome(job.scan_id, lost=(*lost, *done.lost))


def read_labels(sources: Mapping[str, LabelSource], grid: Grid, read: Reader) -> tuple[dict[str, Volume], list[LostLabels]]:
    """(labels by task, those that are refused): what is wrong with labels is no fault of their image."""
    found, lost = {}, []
    for task, source in sources.items():
        try:
            found[task] = read(source.kind, source.paths, source, grid)
        except RefusedVolumeError as error:
            lost.append(LostLabels(task, error.code, f"{error.reason} {error.remedy}", error.paths))
    return found, lost


def is_done(job: Job, store: Store) -> bool:
    """Whether the store holds this very volume, with every file there and all its labels; labels that were refused are read again."""
    if job.scan_id not in store:
        return False
    meta = store.meta(job.scan_id)
    if meta.get("content") != job.content_digest or store.missing(job.scan_id):
        return False
    values = meta["label_values"]
    return all(task in values and (not source.values or {*values[task]} <= {0, *source.values}) for task, source in job.labels.items())


def read_parts(parts: tuple[Part, ...], read: Reader) -> tuple[Volume, tuple[str, ...]]:
    """One volume of all parts, on the canonical grid of the first; what others don't cover is their 0.5th percentile."""
    volumes = [_read_part(part, read) for part in parts]
    modalities = tuple(
        part.modality if part.modality in KNOWN else guess_modality(v.voxels) for part, v in zip(parts, volumes, strict=True)
    )
    if len(volumes) == 1:
        return volumes[0], modalities * volumes[0].num_channels
    grid = volumes[0].grid
    laid = [onto(volume, grid, float(np.percentile(volume.voxels, 0.5))).voxels[:1] for volume in volumes]
    return Volume(np.concatenate([channel.astype(np.float32) for channel in laid]), grid), modalities


def _read_part(part: Part, read: Reader) -> Volume:
    try:
        return read(part.kind, part.paths).canonical()
    except RefusedVolumeError as error:
        error.channel = part.channel
        raise


def process_all(jobs: list[Job], read: Reader, workers: int = 1, memory_mb: int | None = None) -> Iterator[Outcome]:
    """Outcomes as they come, in any order. Never more jobs are under way than twice the workers, so that memory stays bounded."""
    if workers == 1 or len(jobs) < 2:
        yield from (process(job, read, memory_mb) for job in jobs)
        return
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting, running = iter(jobs), set()
        while True:
            while len(running) < 2 * workers and (job := next(waiting, None)):
                running.add(pool.submit(process, job, read, memory_mb))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
