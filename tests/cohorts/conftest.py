"""A small template and packages made of it, so that nothing is downloaded."""

import gzip
import hashlib
import io
import tarfile
import zipfile

import nibabel
import numpy as np
import pytest

from pipeline.cohorts import embedded
from pipeline.cohorts._fetch import Package


def template_maps() -> dict[str, nibabel.Nifti1Image]:
    """An egg of 60 x 72 x 64 mm at 2 mm: white core, grey shell, fluid around and in a ventricle."""
    shape, affine = (44, 50, 46), np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-43, -60, -40)
    x, y, z = (axis - (n - 1) / 2 for axis, n in zip(np.indices(shape), shape, strict=True))
    radius = np.sqrt((x / 15) ** 2 + (y / 18) ** 2 + (z / 16) ** 2)
    ventricle = np.sqrt((x / 4) ** 2 + ((y - 3) / 6) ** 2 + (z / 4) ** 2) < 1
    white = (radius < 0.6) & ~ventricle
    grey = (radius >= 0.6) & (radius < 0.9)
    inside = radius < 1
    t1 = np.where(white, 210, np.where(grey, 140, np.where(inside, 50, 0)))
    return {name: nibabel.Nifti1Image(np.uint8(value), affine) for name, value in (("t1", t1), ("gm", grey * 255), ("wm", white * 255))}


@pytest.fixture(scope="session")
def maps():
    return template_maps()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def packages(tmp_path, monkeypatch, maps):
    """A data folder whose cache holds three tiny packages under the names, but not the digests, of the real ones."""
    cache = tmp_path / "data" / "packages"
    cache.mkdir(parents=True)
    with zipfile.ZipFile(cache / embedded.TEMPLATE.file, "w") as wheel:
        for kind, image in maps.items():
            wheel.writestr(embedded.MAPS[kind], gzip.compress(image.to_bytes(), mtime=0))
    with tarfile.open(cache / embedded.VOLUMES.file, "w:gz") as sdist:
        for name in (*embedded.SCANS, "example_ct_dicom/CT.1", "example_seg.nii.gz"):
            add(sdist, f"totalsegmentator-2.18.0/{embedded.TESTS}{name}", name.encode())
    with zipfile.ZipFile(cache / embedded.JUNK.file, "w") as wheel:
        wheel.writestr("data_store/data/liver.dcm", b"no image")
        wheel.writestr("data_store/utils.py", b"print()")
    for name in ("TEMPLATE", "VOLUMES", "JUNK"):
        real = getattr(embedded, name)
        digest = hashlib.sha256((cache / real.file).read_bytes()).hexdigest()
        monkeypatch.setattr(embedded, name, Package(real.name, real.version, real.file, digest, real.licence))
    return tmp_path / "data"
