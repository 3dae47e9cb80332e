"""Reading one scan, whatever its kind, in a child process with limits: a decoder that crashes, hangs or inflates a bomb costs one scan,
not the run."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from pipeline.scans.child import Allocate, Limits, Read, in_child
from pipeline.scans.patience import patiently
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume

__all__ = ["Limits", "read_scan"]


def read_scan(kind: str, paths: Sequence[str | Path], limits: Limits = Limits()) -> Volume:
    """The volume of a scan as ``index`` named it, on its own grid; raises ``Refused``.

    kind: dicom, nifti or metaimage; of a file that holds several volumes ``nifti:3``, ``dicom:1`` or ``metaimage:0``, its number;
    ``nifti:qform`` and ``nifti:qform-3``: which of the header's two places counts (``placement`` of its source).
    """
    return in_child(reader_of(kind), tuple(str(path) for path in paths), limits)


def reader_of(kind: str) -> Read:
    """What reads a scan of this kind, once it is in a child process."""
    kind, _, part = kind.partition(":")
    if kind not in READERS or (part and not re.fullmatch(PARTS[kind], part)):
        raise ValueError(f"kind: {kind!r} is none of {', '.join(sorted(READERS))}; run `vesalius index` again")
    _import_codecs(kind)
    return partial(_patient, partial(READERS[kind], part=part))


def _patient(read: Read, paths: tuple[str, ...], allocate: Allocate) -> Volume:
    """In the child: what the disk fails to give is asked for again."""
    try:
        return patiently(read, paths, allocate)
    except OSError as error:
        raise Refused(Code.TOO_LARGE if error.errno == errno.ENOMEM else Code.UNREADABLE) from None


def _import_codecs(kind: str) -> None:
    """Here and once, not in every child."""
    for name in CODECS[kind]:
        import_module(name)


def _read_dicom(paths: tuple[str, ...], allocate: Allocate, part: str) -> Volume:
    from pipeline.scans.dicom.stack import read_stack

    return read_stack(paths, allocate, part)


def _read_nifti(paths: tuple[str, ...], allocate: Allocate, part: str) -> Volume:
    from pipeline.scans.formats.nifti import read_nifti

    number = part.removeprefix("sform").removeprefix("qform").removeprefix("-")
    return read_nifti(paths[0], allocate, int(number) if number else None, part[:5] if part.startswith(("s", "q")) else "")


def _read_metaimage(paths: tuple[str, ...], allocate: Allocate, part: str) -> Volume:
    from pipeline.scans.formats.metaimage import read_metaimage

    return read_metaimage(paths[0], allocate, int(part) if part else None)


READERS = {"dicom": _read_dicom, "nifti": _read_nifti, "metaimage": _read_metaimage}
PARTS = {"dicom": r"[0-9]+", "nifti": r"[0-9]+|[sq]form(-[0-9]+)?", "metaimage": r"[0-9]+"}
CODECS = {
    "dicom": (
        "pydicom",
        "pydicom.pixels.decoders",
        "PIL.Image",
        "PIL.Jpeg2KImagePlugin",
        "pipeline.scans.dicom.codecs",
        "pipeline.scans.dicom.stack",
    ),
    "nifti": ("nibabel", "pipeline.scans.formats.nifti"),
    "metaimage": ("pipeline.scans.formats.metaimage",),
}
