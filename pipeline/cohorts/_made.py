"""Which files a cohort made, with their digests: what is there and right is kept, what is not is made again.

``{data}/.made/<part>/<item>.json`` holds the settings' digest and the sha256 of each file of an item. It is written after the files, so an
item that was killed half-way is made anew; the same settings give the same bytes.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from anatomy.grid import Grid
from pipeline.files import digest, digest_of, read_json, write_bytes, write_json


class Made:
    """The files of one part of a cohort, below ``data``."""

    def __init__(self, data: Path, part: str, settings: Any) -> None:
        self.data, self.part = data, part
        self.records = data / ".made" / part
        self.settings = digest_of(settings)

    def keep_or_make(self, item: str, make: Callable[[], dict[str, bytes]]) -> dict[str, str]:
        """Path below ``data`` -> sha256 of an item's files; ``make`` gives path -> bytes and is called only if one of them is missing."""
        record = self.records / f"{item}.json"
        known = self._known(record)
        if known is not None:
            return known
        files = make()
        for name, content in files.items():
            write_bytes(self.data / name, content)
        found = {name: digest(self.data / name) for name in sorted(files)}
        write_json(record, {"settings": self.settings, "files": found})
        return found

    def _known(self, record: Path) -> dict[str, str] | None:
        if not record.is_file():
            return None
        value = read_json(record)
        files = value["files"]
        right = all((self.data / name).is_file() and digest(self.data / name) == wanted for name, wanted in files.items())
        return files if value["settings"] == self.settings and right else None

    def forget_others(self, items: Iterable[str]) -> None:
        """Removes the files of items that other settings once made; files that nobody recorded are left alone."""
        wanted = set(items)
        kept = {name for item in wanted for name in read_json(self.records / f"{item}.json")["files"]}
        for record in sorted(self.records.glob("*.json")):
            if record.stem not in wanted:
                for name, known in read_json(record)["files"].items():
                    path = self.data / name
                    if name not in kept and path.is_file() and digest(path) == known:
                        path.unlink()
                record.unlink()


def pack_nifti(voxels: np.ndarray, grid: Grid) -> bytes:
    """A .nii.gz whose bytes depend on nothing but the voxels and the grid."""
    import nibabel

    image = nibabel.Nifti1Image(voxels, grid.affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(grid.affine, code=1)
    image.set_sform(grid.affine, code=1)
    stream = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=6, mtime=0) as zipped:
        zipped.write(image.to_bytes())
    return stream.getvalue()
