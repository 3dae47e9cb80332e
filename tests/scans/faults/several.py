"""NRRD and MetaImage files of several volumes: a fourth axis anywhere, axes that count no volumes, damage, headers that lie."""

from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.outcome import Outcome
from faults.phantom import LPS_TO_RAS
from faults.text_files import mha, nrrd, words
from faults.volume_files import OBLIQUE, SHAPE, SPACING, at, holds, put, raw_of, values_of

SEVERAL = Table("several")
COUNT = 3
DIRECTIONS = [f"({words(column).replace(' ', ',')})" for column in (np.diag([-1, -1, 1]) @ OBLIQUE[:3, :3]).T]
MATRIX = np.eye(4)
MATRIX[:3, :3] = ((LPS_TO_RAS @ OBLIQUE)[:3, :3] / SPACING).T


def volumes(count=COUNT) -> np.ndarray:
    """(*SHAPE, count): the field, and 100 more in each volume than in the one before."""
    return values_of()[..., None] + 100.0 * np.arange(count)


def are(count=COUNT):
    """Whether the volumes of a file are all there, each with its own values, in their order."""

    def check(outcome: Outcome) -> bool:
        wanted = np.rint(volumes(count))
        return all(holds(values=wanted[..., n])(Outcome([volume])) for n, volume in enumerate(outcome.volumes))

    return check


def case(name, volumes, codes, write, suffix, detached=""):
    def build(folder: Path) -> None:
        first, second = write()
        put(folder, f"scan{suffix}", first if detached else first + second)
        if detached:
            put(folder, detached, second)

    build.__name__ = name
    SEVERAL.case(volumes, codes, check=are() if volumes else None)(build)


def listed(name, found=0, codes="", *, axis=3, says="list", size=COUNT, others=(), suffix=".nrrd", damage=bytes, **options):
    """An NRRD file whose axis ``axis`` counts volumes, and what its header says of that axis."""

    def write():
        per_axis = {"kinds": ["domain"] * 3, "sizes": [str(n) for n in SHAPE], "space directions": list(DIRECTIONS)}
        for key, value in {"kinds": says, "sizes": str(size), "space directions": "none"}.items():
            per_axis[key].insert(axis, value)
        fields = {"dimension": 4} | {key.replace(" ", "_"): " ".join(value) for key, value in per_axis.items()} | options
        return nrrd(split=True, values=np.moveaxis(volumes(), -1, axis), data=damage, lines=others, **fields)

    case(f"nrrd_{name}", found, codes, write, suffix, options.get("data_file", ""))


def stacked(name, found=0, codes="", *, damage=bytes, detached="", file="LOCAL", **options):
    """A MetaImage file of four dimensions."""

    def write():
        fields = {
            "NDims": 4, "DimSize": f"{words(SHAPE)} {COUNT}", "TransformMatrix": words(MATRIX),
            "Offset": f"{words((LPS_TO_RAS @ OBLIQUE)[:3, 3])} 7",
            "CenterOfRotation": "0 0 0 0", "ElementSpacing": f"{words(SPACING)} 2", "AnatomicalOrientation": "????",
        } | options  # fmt: skip
        return mha(split=True, values=volumes(), data=damage, file=file, **fields)

    case(f"metaimage_{name}", found, codes, write, ".mhd" if detached else ".mha", detached)


def gradients(count: int) -> tuple[str, ...]:
    return ("modality:=DWMRI", "DWMRI_b-value:=1000", *(f"DWMRI_gradient_{n:04d}:=0 0 {n}" for n in range(count)))


for place in range(4):
    listed(f"list_as_axis_{place}", 3, axis=place)
    listed(f"list_as_axis_{place}_in_gzip", 3, axis=place, encoding="gzip")
    listed(f"list_as_axis_{place}_one_byte_short", 0, "TRUNCATED", axis=place, damage=lambda data: data[:-1])
    listed(f"list_as_axis_{place}_one_volume_more", 0, "TRUNCATED", axis=place, size=COUNT + 1)
    listed(f"list_as_axis_{place}_one_volume_less", 0, "CORRUPT", axis=place, size=COUNT - 1)
for kind in ("time", "List"):
    listed(f"kind_{kind}", 3, says=kind)
for stored in ("u2", "i4", "i8"):
    listed(f"type_{stored}", 3, axis=0, kind=stored)
listed("big_endian", 3, axis=1, order=">")
listed("one_volume_in_a_list", 1, size=1, axis=2, damage=lambda data: raw_of(volumes()[..., 0], "i2"))
listed("gzip_flipped", 0, "CORRUPT", axis=0, encoding="gzip", damage=lambda data: at(data, -6))
listed("gzip_cut", 0, "TRUNCATED", axis=0, encoding="gzip", damage=lambda data: data[:-9])
listed("list_of_none", 0, "DIMENSIONS", size=0)
listed("list_below_none", 0, "DIMENSIONS", size=-3)
listed("list_of_a_thousand_million", 0, "TOO_LARGE", size=10**9)
listed("unit_of_the_list", 3, axis=0, units='"s" "mm" "mm" "mm"')
listed("unit_of_the_space_unknown", 0, "BAD_HEADER", axis=0, units='"mm" "mm" "s" "mm"')
listed("spacings_that_repeat", 3, axis=0, spacings="nan 1.5 1.25 2.5")
listed("spacings_that_contradict", 0, "ORIENTATION_CONFLICT", axis=0, spacings="1.5 1.25 2.5 nan")
listed("diffusion_in_a_list", 3, others=gradients(COUNT))
listed("diffusion_in_a_vector", 3, axis=0, says="vector", others=gradients(COUNT))
listed("diffusion_of_other_gradients", 0, "DATA_TYPE", says="vector", others=gradients(COUNT + 1))
listed("vector_of_something_else", 0, "DATA_TYPE", says="vector", others=gradients(COUNT)[1:])
listed("layers_of_a_segmentation", 0, "DATA_TYPE", axis=0, others=("Segment0_ID:=Segment_1", "Segmentation_ConversionParameters:="))
for kind in ("RGB-color", "HSV-color", "XYZ-color", "3-color", "4-color", "RGBA-color"):
    listed(f"kind_{kind}", 0, "COLOUR", says=kind)
for kind in ("vector", "covariant-vector", "normal", "point", "complex", "3-vector", "3-gradient", "3-normal", "quaternion",
             "2D-symmetric-matrix", "3D-matrix", "3D-masked-symmetric-matrix", "scalar", "stub", "lisst"):  # fmt: skip
    listed(f"kind_{kind}", 0, "DATA_TYPE", axis=0, says=kind)
for kind in ("domain", "space", "???", "none"):
    listed(f"kind_{kind}".replace("???", "unknown"), 0, "DIMENSIONS", says=kind)
listed("kinds_missing", 0, "DIMENSIONS", kinds=None)
listed("kinds_too_few", 0, "BAD_HEADER", kinds="domain domain list")
listed("two_lists", 0, "DIMENSIONS", dimension=5, kinds="domain domain domain list list", sizes=f"{words(SHAPE)} 3 1000",
       space_directions=" ".join([*DIRECTIONS, "none", "none"]))  # fmt: skip
listed("list_that_runs_through_the_body", 0, "ORIENTATION", space_directions=" ".join([*DIRECTIONS, "(0,0,1)"]))
listed("space_of_four_dimensions", 0, "ORIENTATION", space="left-posterior-superior-time")
listed("detached", 3, axis=0, data_file="voxels.raw", suffix=".nhdr")
listed(
    "detached_at_the_end_of_its_file", 3, axis=0, data_file="voxels.raw", suffix=".nhdr", byte_skip=-1, damage=lambda data: b"before" + data
)
listed("detached_and_cut", 0, "TRUNCATED", data_file="voxels.raw", suffix=".nhdr", damage=lambda data: data[:-1])

stacked("raw", 3)
stacked("packed", 3, pack=True)
stacked("big_endian", 3, order=">")
stacked("detached", 3, file="scan.raw", detached="scan.raw")
stacked("detached_at_the_end_of_its_file", 3, file="scan.raw", detached="scan.raw", HeaderSize=-1, damage=lambda data: b"before" + data)
stacked("one_volume", 1, DimSize=f"{words(SHAPE)} 1", damage=lambda data: raw_of(volumes()[..., 0], "i2"))
stacked("one_byte_short", 0, "TRUNCATED", damage=lambda data: data[:-1])
stacked("one_volume_more", 0, "TRUNCATED", DimSize=f"{words(SHAPE)} {COUNT + 1}")
stacked("one_volume_less", 0, "CORRUPT", DimSize=f"{words(SHAPE)} {COUNT - 1}")
stacked("packed_and_flipped", 0, "CORRUPT", pack=True, damage=lambda data: at(data, -1))
stacked("no_volume", 0, "DIMENSIONS", DimSize=f"{words(SHAPE)} 0")
stacked("a_thousand_million_volumes", 0, "TOO_LARGE", DimSize=f"{words(SHAPE)} {10**9}")
stacked("five_dimensions", 0, "DIMENSIONS", NDims=5, DimSize=f"{words(SHAPE)} 3 1")
stacked("dimensions_that_are_not_counted", 0, "DIMENSIONS", NDims=3)
stacked("several_channels", 0, "DATA_TYPE", ElementNumberOfChannels=2)
stacked("letters_of_three_axes", 3, AnatomicalOrientation="LPI?")
stacked("letters_that_contradict", 0, "ORIENTATION_CONFLICT", AnatomicalOrientation="SAR?")
stacked("offset_of_three_numbers", 0, "BAD_HEADER", Offset="1 2 3")
stacked("spacing_of_three_numbers", 0, "BAD_HEADER", ElementSpacing=words(SPACING))
stacked("spacing_zero", 0, "PIXEL_SPACING", ElementSpacing="1.5 0 2.5 2")
stacked("matrix_of_nine_numbers", 0, "BAD_HEADER", TransformMatrix="1 0 0 0 1 0 0 0 1")
stacked("centre_of_rotation", 0, "ORIENTATION_CONFLICT", CenterOfRotation="0 0 1 0")
for name, place in {"row": (3, 1), "column": (2, 3), "end": (3, 3)}.items():
    turned = MATRIX.copy()
    turned[place] += 0.01
    stacked(f"matrix_with_another_{name}", 0, "ORIENTATION", TransformMatrix=words(turned))
