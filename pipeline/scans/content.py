"""What scans are made of on the disk, and whether it changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.files import digest_of
from pipeline.scans.patience import patiently
from pipeline.scans.quarantine import Refused

HEADERS = {".hdr": "nifti", ".mhd": "metaimage", ".nhdr": "metaimage"}  # files that may hold no voxels


def detached_of(kind: str, path: Path) -> tuple[Path, ...]:
    """The voxels' own file, where ``path`` is but their header; raises ``Refused``."""
    if kind.startswith("nifti"):
        from pipeline.scans.formats.nifti import detached_of as found
    elif kind.startswith("metaimage"):
        from pipeline.scans.formats.metaimage import detached_of as found
    else:
        return ()
    return found(path)


def with_voxels(path: Path) -> list[Path]:
    """A label file, and the file of its voxels where it is but their header."""
    kind = HEADERS.get(path.suffix.lower())
    try:
        return [path, *patiently(detached_of, kind, path)] if kind else [path]
    except Refused:
        return [path]  # which is read later, and refused then


def content_of(paths: Sequence[Path]) -> str:
    """Digest of the sizes and times of files: a change of any wakes what was made from them."""
    stats = [path.stat() for path in paths]
    return digest_of([[item.st_size, item.st_mtime_ns] for item in stats])


def sources_of(paths: Sequence[Path | str], detached: Sequence[Path], labels: Mapping[str, Sequence[Path | str]]) -> str:
    """The content of a scan in its shard's table, with the files of its voxels and its labels (by task)."""
    own = sorted(Path(path).absolute() for path in paths)
    drawn = [item for task in sorted(labels) for path in sorted(map(str, labels[task])) for item in with_voxels(Path(path))]
    return patiently(content_of, [*own, *detached, *drawn])[:32]
