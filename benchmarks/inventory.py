"""An inventory of many small DICOM files: files per second of CPU time, and how memory grows with their number.

    .venv/bin/python benchmarks/inventory.py [--counts 10000 100000]

The files are CT slices of 16 x 16 voxels, 100 a series, a folder each, made from one template in which numbers of fixed width are
replaced; they lie in a temporary folder. Each inventory is a process of its own, and is all of ``vesalius index``: every file looked at,
every header read, slices united into volumes, geometry checked, tables and crosswalk written. Peak of memory is that above the imports.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.files import write_json  # noqa: E402
from pipeline.folder import StudyFolder  # noqa: E402
from pipeline.plan import make_plan, plan_json  # noqa: E402
from pipeline.verbs.index import run  # noqa: E402

PER_SERIES = 100
SERIES, SLICE, HEIGHT = "7770000000", "8880000000", "+00099999.5"  # what stands in the template for numbers


def template() -> bytes:
    """A CT slice as scanners write it: explicit little endian, some sixty elements, a private block."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    slice_ = Dataset()
    slice_.file_meta = FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID = CTImageStorage
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID = f"1.2.826.0.1.3680043.10.1.{SERIES}.{SLICE}"
    slice_.SeriesInstanceUID, slice_.StudyInstanceUID = f"1.2.826.0.1.3680043.10.2.{SERIES}", f"1.2.826.0.1.3680043.10.3.{SERIES}"
    slice_.FrameOfReferenceUID = f"1.2.826.0.1.3680043.10.4.{SERIES}"
    slice_.PatientID, slice_.InstanceNumber, slice_.AcquisitionNumber = f"P{SERIES}", 1, 1
    slice_.ImageType, slice_.Modality, slice_.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", "MAKER"
    slice_.StudyDate = slice_.SeriesDate = slice_.AcquisitionDate = "20200101"
    slice_.StudyTime = slice_.SeriesTime = slice_.AcquisitionTime = "101500.000000"
    slice_.StudyDescription, slice_.SeriesDescription, slice_.ProtocolName = "CT CHEST", "AXIAL 1.0", "CHEST ROUTINE"
    slice_.KVP, slice_.XRayTubeCurrent, slice_.ConvolutionKernel, slice_.PatientPosition = "120", "200", "B30f", "HFS"
    slice_.SliceThickness, slice_.SliceLocation = "1.0", HEIGHT
    slice_.ImagePositionPatient, slice_.ImageOrientationPatient = ["-12.0", "-12.0", HEIGHT], ["1", "0", "0", "0", "1", "0"]
    slice_.PixelSpacing, slice_.Rows, slice_.Columns = ["1.5", "1.5"], 16, 16
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
    slice_.RescaleIntercept, slice_.RescaleSlope, slice_.WindowCenter, slice_.WindowWidth = "0", "1", "40", "400"
    private = slice_.private_block(0x0029, "MAKER HEADER", create=True)
    for number in range(16):
        private.add_new(number, "LO", f"private words number {number}")
    slice_.PixelData = bytes(512)
    stream = io.BytesIO()
    slice_.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def make(folder: Path, count: int) -> None:
    raw = template()
    for series in range(count // PER_SERIES):
        place = folder / f"patient{series:06d}"
        place.mkdir(parents=True)
        whole = raw.replace(SERIES.encode(), f"1{series:09d}".encode())
        for number in range(PER_SERIES):
            data = whole.replace(SLICE.encode(), f"1{number:09d}".encode()).replace(HEIGHT.encode(), f"{number - 50:+011.1f}".encode())
            (place / f"IM{number:05d}").write_bytes(data)


def take(folder: Path) -> dict[str, float]:
    """Here: ``vesalius index``, after one of a few files so that all is imported."""
    with tempfile.TemporaryDirectory() as first:
        make(Path(first) / "scans", PER_SERIES)
        index(Path(first) / "scans", Path(first))
    with tempfile.TemporaryDirectory() as results:
        before_mb, before = _resident_mb("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
        where = index(folder, Path(results))
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        with where.inventory.open() as files, where.shard("00").open() as scans:
            return {
                "cpu_s": cpu_s, "peak_mb": _resident_mb("VmHWM") - before_mb, "files": sum(1 for _ in files) - 1,
                "scans": sum(1 for _ in scans) - 1,
            }  # fmt: skip


def index(scans: Path, folder: Path) -> StudyFolder:
    """Indexes a study of these scans whose results and private files lie in ``folder``."""
    os.environ["VESALIUS_PRIVATE"] = str(folder / "private")
    (folder / "study.yaml").write_text("sources: [{path: '{data}'}]\nsplit: {test: 1, validation: 1}\nshards: 1\n")
    plan = make_plan(folder / "study.yaml", str(scans), str(folder / "results"))
    where = StudyFolder(Path(plan.results))
    write_json(where.plan, plan_json(plan))
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run(where.root)
    return where


def _resident_mb(what: str) -> float:
    return int(Path("/proc/self/status").read_text().partition(f"{what}:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--take", type=Path, help="Only take the inventory of this folder.")
    arguments = parser.parse_args()
    if arguments.take:
        print(json.dumps(take(arguments.take)))
        return
    print(f"{'files':>8} {'scans':>6} {'CPU s':>7} {'files/s':>8} {'peak MB above imports':>22} {'bytes a file':>13}")
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), count)
            command = [sys.executable, __file__, "--take", folder]
            done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            row = json.loads(done.stdout.splitlines()[-1])
        rate, each = row["files"] / row["cpu_s"], row["peak_mb"] * 2**20 / row["files"]
        print(f"{row['files']:8d} {row['scans']:6d} {row['cpu_s']:7.1f} {rate:8.0f} {row['peak_mb']:22.1f} {each:13.0f}", flush=True)


if __name__ == "__main__":
    main()
