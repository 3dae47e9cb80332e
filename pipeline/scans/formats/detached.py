"""Voxels in a file of their own lie beside their header, and nowhere else: no path of a header is followed out of its folder."""

from __future__ import annotations

from pathlib import Path

from pipeline.scans.quarantine import Code, Refused


def beside(header: Path, name: str) -> Path:
    """The regular file of this name in the header's folder; raises ``Refused`` for paths, links, patterns and what is not there."""
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise Refused(Code.DETACHED)
    path = header.parent / name
    try:
        if path.is_symlink() or not path.is_file():
            raise Refused(Code.DETACHED)
    except OSError:
        raise Refused(Code.DETACHED) from None
    return path
