"""Every file below a folder, once, with what its first bytes say it is. Names and extensions decide nothing where bytes can."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.scans.patience import patiently
from pipeline.scans.quarantine import Code


@dataclass(frozen=True)
class Found:
    """A file: ``kind`` is dicom, nifti, metaimage or other; a ``code`` says why it is not even looked into."""

    path: Path
    relative: str
    kind: str
    code: Code | None = None


def walk(folder: Path) -> Iterator[Found]:
    """Sorted by path. Links are followed to files inside the folder only; pipes and devices are never opened. A folder inside that cannot
    be listed stands for what it holds."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; name one that exists in `sources`, or give data=DIR")
    root = folder.resolve()
    closed: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=closed.append):
        yield from _closed(closed, folder)
        linked = [name for name in folders if os.path.islink(os.path.join(place, name))]
        folders[:] = sorted(set(folders) - set(linked))
        for name in sorted([*files, *linked]):
            path = Path(place, name)
            kind, code = _look(path, root)
            yield Found(path, path.relative_to(folder).as_posix(), kind, code)
    yield from _closed(closed, folder)


def _closed(errors: list[OSError], folder: Path) -> Iterator[Found]:
    """Folders that could not be listed; the outermost must be."""
    while errors:
        error = errors.pop(0)
        path = Path(error.filename)
        if path == folder:
            raise ValueError(f"{path}: cannot be listed ({error.strerror}); make it readable")
        yield Found(path, path.relative_to(folder).as_posix(), "other", Code.UNREADABLE)


def _look(path: Path, root: Path) -> tuple[str, Code | None]:
    try:
        if path.is_symlink():
            target = path.resolve(strict=True)
            if not target.is_relative_to(root) or not target.is_file():
                return "other", Code.LINK
            return "other", None  # the file itself is met under its own name
        if not stat.S_ISREG(path.stat().st_mode):
            return "other", Code.SPECIAL_FILE
        start = patiently(_beginning, path)
    except (OSError, RuntimeError):
        return "other", Code.LINK if path.is_symlink() else Code.UNREADABLE
    return _kind(path, start)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(348)


def _kind(path: Path, start: bytes) -> tuple[str, Code | None]:
    name = path.name.lower()
    if start[:4] == b"\0\5\x16\7":  # AppleDouble: what macOS notes of a file, under its name
        return "other", None
    if start[128:132] == b"DICM":
        return ("other", None) if name == "dicomdir" else ("dicom", None)
    if not start:
        promised = name.endswith((".nii", ".nii.gz", ".dcm", ".nrrd", ".mha", ".mhd"))
        return "other", Code.EMPTY if promised else None
    if name.endswith((".nii", ".nii.gz", ".hdr")) or _is_nifti(start):
        return ("other", None) if name.endswith(".img") else ("nifti", None)
    if start[:4] == b"NRRD" or (name.endswith((".mha", ".mhd")) and b"=" in start[:80]):
        return "metaimage", None
    if name.endswith(".dcm") or _looks_like_dicom(start):
        return "dicom", None
    return "other", None


def _is_nifti(start: bytes) -> bool:
    if start[:2] == b"\x1f\x8b":
        try:
            start = zlib.decompressobj(31).decompress(start, 348)
        except zlib.error:
            return False
    if start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c"):
        return start[4:7] in (b"n+2", b"ni2")
    return start[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and start[344:347] in (b"n+1", b"ni1", b"")


def _looks_like_dicom(start: bytes) -> bool:
    """Without a preamble: group 0002 or 0008 first, and a plausible value representation or length."""
    group = start[:2]
    return group in (b"\x08\0", b"\x02\0") and (
        (start[4:6].isalpha() and start[4:6].isupper()) or 0 < int.from_bytes(start[4:8], "little") < 256
    )


def stem_of(name: str) -> str:
    """A file's name without what says its format: ``case_0001.nii.gz`` -> ``case_0001``."""
    lowered = name.lower()
    for ending in (".nii.gz", ".nii", ".hdr", ".img", ".nrrd", ".nhdr", ".mha", ".mhd"):
        if lowered.endswith(ending):
            return name[: -len(ending)]
    return name
