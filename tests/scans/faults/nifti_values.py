"""NIfTI cases: types of voxels, their scaling, numbers that are none, and volumes in which there is nothing to learn."""

import tempfile
from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.outcome import Outcome
from faults.volume_files import affine_of, holds, nifti, packed, put, raw_of, values_of

from pipeline.volumes.nifti_file import write_nifti
from pipeline.volumes.preparation import LowInformationError, check_information

VALUES = Table("nifti")
case = VALUES.case
FIELD = values_of()
ROUNDED = np.rint(FIELD)
NAN = float("nan")


def voxels(name, volumes=0, codes="", *, check=None, **options):
    """A case of one packed file, made with options of ``nifti``."""

    def build(folder: Path) -> None:
        put(folder, "scan.nii.gz", packed(nifti(**options)))

    build.__name__ = f"nifti_{name}"
    case(volumes, codes, check=(check or holds()) if volumes else None)(build)


def spoiled(share, value, kind=float):
    """The field with so many of its voxels (a share, or one) replaced."""
    found = FIELD.astype(kind)
    found.flat[:: 1 if share >= 1 else round(1 / share)] = value
    return found


def exact(values, kind=None, tolerance=0.0):
    return holds(values=values, kind=kind, tolerance=tolerance)


for kind, low in (("u1", 0), ("i1", -128)):
    middle = np.rint(FIELD - FIELD.min() + low).clip(low, low + 255)
    voxels(f"type_{kind}", 1, kind=kind, values=middle, check=exact(middle, np.int16))
for kind in ("i2", "u2", "i4", "u4", "i8"):
    voxels(f"type_{kind}", 1, kind=kind, check=holds(kind=np.int16))
    voxels(f"type_{kind}_in_big_endian", 1, kind=kind, order=">", check=holds(kind=np.int16))
for kind in ("f4", "f8"):
    voxels(f"type_{kind}", 1, kind=kind, check=exact(FIELD.astype("f4"), np.float32))
    voxels(f"type_{kind}_in_big_endian", 1, kind=kind, order=">", check=exact(FIELD.astype("f4"), np.float32))
voxels("u2_above_int16", 1, kind="u2", values=FIELD + 60000, check=exact(np.rint(FIELD + 60000), np.float32))
voxels("i4_above_int16", 1, kind="i4", values=FIELD * 1e4, check=exact(np.rint(FIELD * 1e4), np.float32))
voxels("i4_past_float32", 0, "DATA_TYPE", kind="i4", values=spoiled(0.001, 2**24 + 1))
voxels("i8_in_range", 1, kind="i8", values=FIELD * 1e4, check=exact(np.rint(FIELD * 1e4)))
voxels("i8_out_of_range", 0, "DATA_TYPE", kind="i8", values=spoiled(0.001, 2**40))
voxels("i8_at_its_least", 0, "DATA_TYPE", kind="i8", values=spoiled(0.001, -(2**63)))
voxels("u8", 0, "DATA_TYPE", kind="u8")
voxels("complex64", 0, "DATA_TYPE", kind="c8")
voxels("float128", 0, "DATA_TYPE", kind="f16")
for name, code, bits in (
    ("rgb24", 128, 24),
    ("rgba32", 2304, 32),
    ("bits", 1, 1),
    ("none", 0, 16),
    ("all", 255, 16),
    ("complex128", 1792, 128),
):
    voxels(f"type_{name}", 0, "DATA_TYPE", datatype=code, bitpix=bits)

for name, value in {"nan": NAN, "infinite": np.inf, "minus_infinite": -np.inf, "1e38": 1e38}.items():
    for share in (0.001, 0.01, 0.5, 1):
        voxels(f"{name}_in_{share * 100:g}_percent", 0, "NOT_FINITE", kind="f4", values=spoiled(share, value))
    voxels(f"{name}_of_f8_in_1_percent", 0, "NOT_FINITE", kind="f8", order=">", values=spoiled(0.01, value))
voxels("1e300_of_f8", 0, "NOT_FINITE", kind="f8", values=spoiled(0.01, 1e300))

for name, slope, inter in (("zero", 0, 0), ("zero_with_an_inter", 0, 5), ("nan", NAN, 0), ("nan_and_inter_nan", NAN, NAN)):
    voxels(f"slope_{name}", 1, check=holds(kind=np.int16), scl_slope=slope, scl_inter=inter)  # the standard: no scaling
for name, slope, inter in (
    ("infinite", np.inf, 0),
    ("nan_with_an_inter", NAN, 5),
    ("one_inter_nan", 1, NAN),
    ("two_inter_infinite", 2, np.inf),
):
    voxels(f"slope_{name}", 0, "SCALING", scl_slope=slope, scl_inter=inter)
voxels("slope_2_inter_minus_1024", 1, values=2 * np.rint(FIELD) - 1024, slope=2.0, inter=-1024.0, check=exact(2 * ROUNDED - 1024, np.int16))
voxels("slope_2_of_u2_in_big_endian", 1, kind="u2", order=">", values=2 * ROUNDED, slope=2.0, check=exact(2 * ROUNDED, np.int16))
voxels("slope_past_int16", 1, scl_slope=1000, check=exact(ROUNDED * 1000, np.float32))
voxels("slope_of_a_fraction", 1, scl_slope=0.25, scl_inter=0.5, check=exact(ROUNDED / 4 + 0.5, np.float32))
voxels("slope_negative", 1, scl_slope=-1, check=exact(-ROUNDED, np.int16))
voxels("slope_of_f4", 1, kind="f4", scl_slope=2, scl_inter=1, check=exact(FIELD.astype("f4") * 2.0 + 1, np.float32, 1e-4))
voxels("slope_past_float32", 0, "DATA_TYPE", scl_slope=1e6)
voxels("slope_past_any_value", 0, "NOT_FINITE", scl_slope=1e30)
voxels("slope_past_any_value_of_f8", 0, "NOT_FINITE", kind="f8", values=FIELD * 1e20, scl_slope=1e30)


def nothing_to_learn(outcome: Outcome) -> bool:
    """Read as it is, and refused where volumes are prepared."""
    for volume in outcome.volumes:
        try:
            check_information(volume.canonical())
        except LowInformationError:
            continue
        return False
    return True


def empty(name, shape, values=None):
    def build(folder: Path) -> None:
        affine = affine_of()
        put(folder, "scan.nii.gz", packed(nifti(affine, shape, values=values_of(affine, shape) if values is None else values(shape))))

    build.__name__ = f"nifti_{name}"
    case(check=nothing_to_learn)(build)


def one_bright_corner(shape):
    values = np.zeros(shape)
    values[:3, :3, :3] = np.arange(27).reshape(3, 3, 3)
    return values


empty("constant", (30, 30, 30), lambda shape: np.full(shape, 7.0))
empty("one_slice", (200, 200, 1))
empty("of_8000_voxels", (20, 20, 20))
empty("all_background", (40, 40, 40), one_bright_corner)
empty("of_two_values", (30, 30, 30), lambda shape: np.indices(shape).sum(0) % 2.0)


def stripped(outcome: Outcome) -> bool:
    """Whether no canary is left in the file that is written from a volume."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "written.nii")
        write_nifti(path, outcome.volumes[0].voxels[0], outcome.volumes[0].grid)
        return holds()(outcome) and b"canary" not in path.read_bytes().lower()


words = {"descrip": b"Canary^Patient 1970", "aux_file": b"/home/canary/x.nii", "intent_name": b"canary", "db_name": b"canary"}
comment = np.array([48, 6], "<i4").tobytes() + b"Canary^Patient born 1970".ljust(40)
voxels("words_of_a_person", 1, check=stripped, extension=comment, **words)


@case(0, "NOT_FINITE")
def nifti_with_a_nan_in_its_last_voxel(folder):
    raw = raw_of(FIELD, "f4")[:-4] + np.array([np.nan], "<f4").tobytes()
    put(folder, "scan.nii", nifti(kind="f4", split=True)[0] + raw)
