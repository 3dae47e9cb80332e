"""Reading one scan, whatever its kind. DICOM is decoded in a child process with limits: a decoder that crashes, hangs or inflates a
bomb costs one scan, not the run."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume


@dataclass(frozen=True)
class Limits:
    """Of a child process: memory beyond what it starts with, processor time, and time on the clock."""

    memory_mb: int = 8000
    processor_s: int = 600
    clock_s: float = 900.0


def read_scan(kind: str, paths: Sequence[str | Path], limits: Limits = Limits()) -> Volume:
    """The volume of a scan as ``index`` named it (kind: dicom, nifti or metaimage), on its own grid; raises ``Refused``."""
    if kind == "nifti":
        from pipeline.scans.nifti import read_nifti

        return read_nifti(paths[0])
    if kind == "metaimage":
        return _in_child(_read_metaimage, (str(paths[0]),), limits)
    if kind == "dicom":
        return _in_child(_read_dicom, (tuple(str(path) for path in paths),), limits)
    raise ValueError(f"kind: {kind!r} is none of dicom, nifti, metaimage; run `vesalius index` again")


def _read_dicom(paths: tuple[str, ...]) -> Volume:
    from pipeline.scans.stack import read_stack

    return read_stack(paths)


def _read_metaimage(path: str) -> Volume:
    from pipeline.scans.metaimage import read_metaimage

    return read_metaimage(path)


def _in_child(read: Any, arguments: tuple[Any, ...], limits: Limits) -> Volume:
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(read, arguments, limits, there), daemon=True)
    child.start()
    there.close()
    try:
        if not here.poll(limits.clock_s):
            raise Refused(Code.TIME_OUT)
        try:
            answer = here.recv()
        except EOFError:
            raise Refused(Code.DECODER) from None  # the child died without a word
    finally:
        here.close()
        child.kill()
        child.join()
    if isinstance(answer, Refused):
        raise answer
    voxels, shape, affine = answer
    return Volume(voxels, Grid(shape, affine))


def _child(read: Any, arguments: tuple[Any, ...], limits: Limits, there: Connection) -> None:
    """Runs in the child: limits first, then the untrusted file."""
    used = _used_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (used + (limits.memory_mb << 20), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.processor_s, limits.processor_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        volume = read(*arguments)
        answer: Any = (np.ascontiguousarray(volume.voxels), volume.grid.shape, np.array(volume.grid.affine))
    except Refused as refused:
        answer = refused
    except MemoryError:
        answer = Refused(Code.TOO_LARGE)
    except Exception:  # the parent must hear a reason, whatever a decoder raised
        answer = Refused(Code.CORRUPT)
    there.send(answer)
    there.close()


def _used_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize()
