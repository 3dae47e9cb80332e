"""What other readers make of a folder or file, each called as its own documentation says: ``python peer_readers.py NAME`` imports one
of them, then reads jobs (lines of JSON) and does each in a forked child with limits, so that a fresh process costs no fresh import.

A reader returns (array, affine) pairs: three-dimensional arrays, affines (4, 4) to RAS+ mm. Its status is ``accepted``, or ``refused``
(an exception, an exit code other than 0, or nothing written), ``crash`` or ``time out``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MEMORY_MB, CLOCK_S = 4000, 30.0
Pairs = list[tuple[np.ndarray, np.ndarray]]
Read = Callable[[Path, Path], tuple[Pairs, bool]]  # (source, a folder to write into) -> (volumes, whether it claims success)


def split(array: np.ndarray, affine: np.ndarray) -> Pairs:
    """Volumes of a series in time, or the one that it is."""
    array = np.asarray(array)
    while array.ndim > 4:
        array = array.reshape(*array.shape[:3], -1)
    parts = [array] if array.ndim == 3 else [array[..., time] for time in range(array.shape[3])]
    return [(part, np.asarray(affine, float)) for part in parts]


def written(folder: Path) -> Pairs:
    import nibabel

    images = [nibabel.load(path) for path in sorted([*folder.rglob("*.nii"), *folder.rglob("*.nii.gz")])]
    return [pair for image in images for pair in split(np.asanyarray(image.dataobj), image.affine)]


def dcm2niix() -> Read:
    import dcm2niix

    def read(source: Path, out: Path) -> tuple[Pairs, bool]:
        command = [dcm2niix.bin, "-z", "n", "-b", "n", "-g", "i", "-f", "v_%s", "-o", str(out), str(source)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode < 0:
            os.kill(os.getpid(), -done.returncode)
        return written(out), done.returncode == 0

    return read


def dicom2nifti() -> Read:
    import dicom2nifti as library

    def read(source: Path, out: Path) -> tuple[Pairs, bool]:
        library.convert_directory(str(source), str(out), compression=False)
        return (found := written(out)), bool(found)

    return read


def from_sitk(image: Any) -> Pairs:
    import SimpleITK as sitk

    turn, spacing = np.asarray(image.GetDirection()), np.asarray(image.GetSpacing())
    size = len(spacing)
    affine = np.eye(4)
    affine[:3, :3] = (turn.reshape(size, size) * spacing)[:3, :3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return split(sitk.GetArrayFromImage(image).T, LPS_TO_RAS @ affine)


def simpleitk() -> Read:
    import SimpleITK as sitk

    def read(source: Path, out: Path) -> tuple[Pairs, bool]:
        if source.is_file():
            return from_sitk(sitk.ReadImage(str(source))), True
        found: Pairs = []
        for series in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(source)):
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(source), series))
            found += from_sitk(reader.Execute())
        return found, bool(found)

    return read


def monai() -> Read:
    from monai.data import NibabelReader, PydicomReader
    from monai.transforms import LoadImage

    def read(source: Path, out: Path) -> tuple[Pairs, bool]:
        reader = NibabelReader() if source.is_file() else PydicomReader()
        image = LoadImage(reader=reader, image_only=True, dtype=None)(str(source))
        return split(image.numpy(), image.affine.numpy()), True

    return read


def highdicom() -> Read:
    import highdicom
    import pydicom

    def read(source: Path, out: Path) -> tuple[Pairs, bool]:
        series: dict[str, list[Any]] = {}
        for path in sorted(source.iterdir()):
            try:
                dataset = pydicom.dcmread(path)
            except (pydicom.errors.InvalidDicomError, EOFError):
                continue
            if "PixelData" in dataset:
                series.setdefault(str(dataset.SeriesInstanceUID), []).append(dataset)
        found: Pairs = []
        for datasets in series.values():
            if "NumberOfFrames" in datasets[0]:
                volumes = [highdicom.Image.from_dataset(dataset).get_volume() for dataset in datasets]
            else:
                volumes = [highdicom.get_volume_from_series(datasets)]
            found += [pair for volume in volumes for pair in split(volume.array, LPS_TO_RAS @ volume.affine)]
        return found, bool(found)

    return read


def nibabel() -> Read:
    import nibabel as library

    def read(source: Path, out: Path) -> tuple[Pairs, bool]:
        image = library.load(source)
        return split(image.get_fdata(), image.affine), True

    return read


def torchio() -> Read:
    import torchio as library

    def read(source: Path, out: Path) -> tuple[Pairs, bool]:
        image = library.ScalarImage(source)
        return split(np.moveaxis(image.data.numpy(), 0, -1), np.asarray(image.affine)), True

    return read


def nnunet() -> Read:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    def read(source: Path, out: Path) -> tuple[Pairs, bool]:
        array, properties = SimpleITKIO().read_images((str(source),))
        stated = properties["sitk_stuff"]
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(stated["direction"], (3, 3)) * np.asarray(stated["spacing"])
        affine[:3, 3] = stated["origin"]
        return [(channel.T, LPS_TO_RAS @ affine) for channel in array], True

    return read


# name: (what it is called, its distribution, which kinds of files it reads, what imports it)
READERS: dict[str, tuple[str, str, tuple[str, ...], Callable[[], Read]]] = {
    "dcm2niix": ("dcm2niix", "dcm2niix", ("dicom",), dcm2niix),
    "dicom2nifti": ("dicom2nifti", "dicom2nifti", ("dicom",), dicom2nifti),
    "simpleitk": ("SimpleITK", "SimpleITK", ("dicom", "nifti", "metaimage"), simpleitk),
    "monai": ("MONAI", "monai", ("dicom", "nifti"), monai),
    "highdicom": ("highdicom", "highdicom", ("dicom",), highdicom),
    "torchio": ("TorchIO", "torchio", ("dicom", "nifti", "metaimage"), torchio),
    "nibabel": ("nibabel", "nibabel", ("nifti",), nibabel),
    "nnunet": ("nnU-Net", "nnunetv2", ("nifti", "metaimage"), nnunet),
}


def attempt(read: Read, source: Path, out: Path) -> None:
    """In the child: writes what was read and whether it was claimed to be right."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (MEMORY_MB << 20), resource.RLIM_INFINITY))
    try:
        found, claims = read(source, out)
    except Exception:  # a reader may refuse by whatever it raises
        found, claims = [], False
    arrays = {f"{kind}{number}": part for number, pair in enumerate(found) for kind, part in zip("va", pair, strict=True)}
    np.savez(out / "found.npz", claims=claims, **arrays)


def fork(read: Read, source: Path, out: Path) -> str:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        attempt(read, source, out)
        os._exit(0)
    end = time.monotonic() + CLOCK_S
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "time out"
        time.sleep(0.005)
    return "done" if os.waitstatus_to_exitcode(ended[1]) == 0 else "crash"


if __name__ == "__main__":
    reader = READERS[sys.argv[1]][3]()
    print("ready", flush=True)
    for line in sys.stdin:
        print(fork(reader, *map(Path, json.loads(line))), flush=True)
