"""One CT from its file into a store, beside what users would take instead: CPU seconds of one core and memory.

    .venv/bin/python benchmarks/ingest.py [--rounds 5] [--peers PYTHON] [--scan ct.nii.gz]

The scan is that of ``phantom_ct.py`` (512 x 512 x 200 int16, 0.78 x 0.78 x 2 mm, LPS) unless named. Everybody turns it
to RAS and 1.5 mm, maps -1000 to 1000 HU onto 0 to 1 (Vesalius by its contract), crops to the body and writes it as is the custom
there: SimpleITK and MONAI float32 NIfTI (gzip), nnU-Net its blosc2 store with its default resampling and no crop to the
body, Vesalius int16 with body mask, fingerprint and digests. Each run is a process of its own, and contestants take turns; medians
of CPU time (with that of children) and of the peak of memory above the imports. ``--peers``: the Python of an environment with nnunetv2,
SimpleITK and monai.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
ONE_THREAD = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "BLOSC_NTHREADS")
}
SPACING_MM = (1.5, 1.5, 1.5)
TARGETS = {"SimpleITK": 3, "MONAI": 6, "nnU-Net": 12}


def vesalius(scan: str, out: str) -> Any:
    from functools import partial

    from pipeline.labels.sources import read_source
    from pipeline.scans.reading import CODECS, _import_codecs
    from pipeline.volumes.jobs import Job, Part, process

    job = Job("scan", {}, (Part("scan", "nifti", (scan,), "CT", "CT"),), {}, "", {"spacing_mm": SPACING_MM}, out)

    for kind in CODECS:
        _import_codecs(kind)

    def work() -> None:
        outcome = process(job, partial(read_source, memory_mb=8000))
        assert not outcome.code, outcome

    return work


def simpleitk(scan: str, out: str) -> Any:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def work() -> None:
        image = sitk.DICOMOrient(sitk.ReadImage(scan), "RAS")
        size = [round(n * s / new) for n, s, new in zip(image.GetSize(), image.GetSpacing(), SPACING_MM, strict=True)]
        origin, direction = image.GetOrigin(), image.GetDirection()
        image = sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, origin, SPACING_MM, direction, -1024.0, sitk.sitkFloat32)
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(image > -500)
        box = shape.GetBoundingBox(1)
        image = sitk.RegionOfInterest(sitk.IntensityWindowing(image, -1000, 1000, 0, 1), box[3:], box[:3])
        sitk.WriteImage(image, f"{out}/scan.nii.gz", True)

    return work


def monai(scan: str, out: str) -> Any:
    import torch
    from monai import transforms

    torch.set_num_threads(1)
    steps = transforms.Compose([
        transforms.LoadImage(image_only=True, ensure_channel_first=True), transforms.Orientation("RAS"),
        transforms.Spacing(SPACING_MM, mode="bilinear"),
        transforms.ScaleIntensityRange(-1000, 1000, 0, 1, clip=True), transforms.CropForeground(select_fn=lambda x: x > 0.25),
        transforms.SaveImage(out, output_postfix="", separate_folder=False, print_log=False),
    ])  # fmt: skip
    return lambda: steps(scan)


def nnunet(scan: str, out: str) -> Any:
    os.environ |= {name: out for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    import torch
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.set_num_threads(1)
    resampling = "resample_data_or_seg_to_shape"
    orders = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    hu = {"mean": 0.0, "std": 300.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0, "min": -1024.0, "max": 3000.0, "median": 0.0}
    settings = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "spacing": list(SPACING_MM),
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False], "batch_size": 2, "patch_size": [128, 128, 128],
        "resampling_fn_data": resampling, "resampling_fn_data_kwargs": orders,
        "resampling_fn_seg": resampling, "resampling_fn_seg_kwargs": {**orders, "is_seg": True, "order": 1},
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
    }  # fmt: skip
    plans = PlansManager({
        "dataset_name": "Dataset001_CT", "plans_name": "p", "image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2], "foreground_intensity_properties_per_channel": {"0": hu},
        "configurations": {"3d_fullres": settings},
    })  # fmt: skip
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "body": 1}, "file_ending": ".nii.gz"}

    def work() -> None:
        DefaultPreprocessor(verbose=False).run_case_save(f"{out}/scan", [scan], None, plans, plans.get_configuration("3d_fullres"), dataset)

    return work


CONTESTANTS = {"Vesalius": vesalius, "SimpleITK": simpleitk, "MONAI": monai, "nnU-Net": nnunet}


def _spent_s() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _resident_mb(what: str) -> float:
    return int(Path("/proc/self/status").read_text().partition(f"{what}:")[2].split()[0]) / 1024


def run_once(name: str, scan: str) -> dict[str, float]:
    """In a process of its own: CPU seconds, peak MB above the imports, MB written."""
    with tempfile.TemporaryDirectory() as out:
        work = CONTESTANTS[name](scan, out)
        before_mb, before_s = _resident_mb("VmRSS"), _spent_s()
        work()
        spent_s = _spent_s() - before_s
        written = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
        return {"cpu_s": spent_s, "peak_mb": _resident_mb("VmHWM") - before_mb, "written_mb": written / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--once", choices=CONTESTANTS, help="Run one contestant here, once.")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(run_once(arguments.once, str(arguments.scan))))
        return
    with tempfile.TemporaryDirectory() as folder:
        scan = arguments.scan or Path(folder, "ct.nii.gz")
        if not scan.exists():
            from phantom_ct import write

            write(scan)
        report(compete(scan, arguments))


def compete(scan: Path, arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
    for _ in range(arguments.rounds):
        for name, runs in found.items():
            python = sys.executable if name == "Vesalius" else arguments.peers
            command = [python, __file__, "--once", name, "--scan", str(scan)]
            done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr}")
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def report(found: dict[str, list[dict[str, float]]]) -> None:
    middle = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    print(f"{'':12} {'CPU s':>8} {'x':>6} {'wanted':>7} {'peak MB above imports':>22} {'MB written':>11}")
    for name, row in middle.items():
        ratio = row["cpu_s"] / middle["Vesalius"]["cpu_s"] if "Vesalius" in middle else float("nan")
        wanted = TARGETS.get(name, "")
        print(f"{name:12} {row['cpu_s']:8.2f} {ratio:6.1f} {wanted:>7} {row['peak_mb']:22.0f} {row['written_mb']:11.1f}", flush=True)


if __name__ == "__main__":
    main()
