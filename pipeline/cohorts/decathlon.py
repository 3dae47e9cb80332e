"""A task of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022), from a folder or by download.

A data folder that already holds ``images`` and ``labels`` is used as it is. Else the public archive is downloaded to ``packages``, checked,
and its labelled images are written to ``images`` and ``labels``; the unlabelled test images of the challenge are left in the archive.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from pipeline import plugins
from pipeline.cohorts._fetch import fetch_url
from pipeline.cohorts._unpack import unpack
from pipeline.files import digest_of, read_json, write_json

# task -> (address, digest as the publisher states it)
ARCHIVES = {
    "hippocampus": (
        "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar",
        "md5:9d24dba78a72977dbd1d2e110310f31b",
    ),
}
FOLDERS = {"imagesTr": "images", "labelsTr": "labels"}
ENDINGS = (".nii.gz", ".nii")


class Decathlon:
    """Images and labels of one task."""

    class Config(plugins.Config):
        """Settings of a Decathlon task."""

        task: Literal["hippocampus"] = Field("hippocampus", description="Which task.")
        url: str | None = Field(None, description="Where the archive lies; default: the public copy that MONAI downloads from.")
        max_bytes: int = Field(1 << 30, ge=1, description="Refuse an archive that unpacks to more.")

    def __init__(self, config: Config) -> None:
        self.config = config

    def make(self, data: Path) -> list[dict[str, Any]]:
        """One card: origin, licence, address and digest of the archive (none for a folder that was there), number of files."""
        task, (known_url, digest) = self.config.task, ARCHIVES[self.config.task]
        card = {"part": task, "origin": f"Medical Segmentation Decathlon, {task}", "licence": "CC-BY-SA 4.0"}
        record = data / ".made" / f"{task}.json"
        if not record.exists() and (there := _images(data)):
            return [{**card, "archive": None, "files": there}]
        url = self.config.url or known_url
        if not _whole(data, record, digest):
            archive = fetch_url(url, data / "packages" / PurePosixPath(url).name, digest)
            write_json(record, {"digest": digest, "sizes": {}})  # from here on the folder is ours to complete
            write_json(record, {"digest": digest, "sizes": self._unpack(archive, data)})
        known = read_json(record)
        return [{**card, "archive": {"url": url, "digest": digest}, "files": len(known["sizes"]), "digest": digest_of(known)}]

    def _unpack(self, archive: Path, data: Path) -> dict[str, int]:
        """Path below ``data`` -> bytes."""
        sizes = {}
        for folder in FOLDERS:
            for path in unpack(archive, data, lambda name, folder=folder: _target(name, folder), self.config.max_bytes):
                sizes[path.relative_to(data).as_posix()] = path.stat().st_size
        if not any(name.startswith("labels/") for name in sizes) or not any(name.startswith("images/") for name in sizes):
            raise ValueError(f"{archive}: holds no imagesTr and labelsTr, so it is no task of the Decathlon; mend sample.decathlon.url")
        return sizes


def _whole(data: Path, record: Path, digest: str) -> bool:
    """Whether all that was once unpacked is there."""
    if not record.exists():
        return False
    known = read_json(record)
    right = all((data / name).is_file() and (data / name).stat().st_size == size for name, size in known["sizes"].items())
    return bool(known["sizes"]) and right and known["digest"] == digest


def _images(data: Path) -> int:
    """Number of files in ``images`` and ``labels`` if both hold some, else 0. The archive's own names are a ``ValueError``."""
    counts = [_count(data / name) for name in FOLDERS.values()]
    if not all(counts) and all(_count(data / name) for name in FOLDERS):
        raise ValueError(f"{data}: holds imagesTr and labelsTr, but the study reads images and labels; rename the two folders")
    return sum(counts) if all(counts) else 0


def _count(folder: Path) -> int:
    return sum(_is_image(path.name) for path in folder.glob("*"))


def _target(name: str, folder: str) -> str | None:
    """``Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz`` -> ``images/hippocampus_001.nii.gz``; hidden ``._`` files are none."""
    path = PurePosixPath(name)
    return f"{FOLDERS[folder]}/{path.name}" if path.parent.name == folder and _is_image(path.name) else None


def _is_image(name: str) -> bool:
    return name.endswith(ENDINGS) and not name.startswith(".")
