"""NIfTI cases: headers that lie, contradict themselves or are merely unusual; and headers whose voxels lie in a file of their own."""

from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.phantom import turned
from faults.volume_files import OBLIQUE, SHAPE, SPACING, affine_of, at, holds, nifti, packed, put, values_of

HEADER = Table("nifti")
case = HEADER.case


def header(name, volumes=0, codes="", *, check=None, whole=None, **options):
    """A case of one plain file, made with options of ``nifti``."""

    def build(folder: Path) -> None:
        put(folder, "scan.nii", whole if whole is not None else nifti(**options))

    build.__name__ = f"nifti_{name}"
    case(volumes, codes, check=(check or holds(options.get("affine", OBLIQUE), kind=np.int16)) if volumes else None)(build)


def dims(*numbers):
    return {"dim": [*numbers, *[1] * (8 - len(numbers))]}


def srow(**rows):
    return {f"srow_{axis}": row for axis, row in rows.items()}


def moved(affine, millimetres) -> np.ndarray:
    moved = affine.copy()
    moved[0, 3] += millimetres
    return moved


def two_forms(sform, qform):
    """The fields of a file whose forms are those of two affines."""
    import nibabel as nib

    wanted, other = nib.Nifti1Header(), nib.Nifti1Header()
    wanted.set_sform(sform, 1)
    other.set_qform(qform, 1)
    names = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "pixdim")
    return {name: other[name] for name in names} | {name: wanted[name] for name in ("srow_x", "srow_y", "srow_z")}


NAN = float("nan")
header("huge_dims", 0, "TOO_LARGE", **dims(3, 32000, 32000, 32000))
header("one_side_too_long", 0, "TOO_LARGE", **dims(3, 2049, 9, 8))
header("too_many_voxels", 0, "TOO_LARGE", **dims(3, 2048, 2048, 2048))
header("huge_dims_of_nifti_2", 0, "TOO_LARGE", version=2, **dims(3, 2**62, 2**62, 2**62))
header("negative_dim", 0, "DIMENSIONS", **dims(3, 10, -9, 8))
header("zero_dim", 0, "DIMENSIONS", **dims(3, 10, 0, 8))
for number in (0, 1, 2, 8, 9, -3, 32767):
    header(f"dim0_{number}", 0, "DIMENSIONS", **dims(number, 10, 9, 8))
header("dims_claim_more", 0, "TRUNCATED", **dims(3, 10, 9, 9))
header("dims_claim_less", 0, "CORRUPT", **dims(3, 10, 9, 7))
header("dims_swapped", 1, check=lambda outcome: outcome.volumes[0].grid.shape == (9, 10, 8), **dims(3, 9, 10, 8))  # what the file says
header("one_time_point", 1, **dims(4, 10, 9, 8, 1))
header("seven_dims_of_one", 1, **dims(7, 10, 9, 8, 1, 1, 1, 1))
header("dims_behind_the_third_left_at_zero", 1, dim=[3, 10, 9, 8, 0, 0, 0, 0])
header("five_time_points", 0, "DIMENSIONS", shape=(*SHAPE, 5), values=np.zeros((*SHAPE, 5)))
header("a_vector_a_voxel", 0, "DIMENSIONS", shape=(*SHAPE, 1, 3), values=np.zeros((*SHAPE, 1, 3)))
header("fourth_dim_zero", 0, "DIMENSIONS", **dims(4, 10, 9, 8, 0))
for name, value in {"0": 0, "351": 351, "1e9": 1e9, "nan": NAN, "infinite": np.inf, "negative": -352, "broken": 352.5}.items():
    header(f"voxels_at_{name}", 0, "BAD_HEADER", vox_offset=value)
header("voxels_beyond_the_end", 0, "TRUNCATED", vox_offset=5000)
header("voxels_at_a_page", 1, gap=4096 - 352)
header("voxels_a_little_late", 0, "TRUNCATED", vox_offset=354)
header("an_extension", 1, extension=np.array([32, 6], "<i4").tobytes() + b"Canary comment".ljust(24))
header("two_extensions_in_big_endian", 1, order=">", extension=2 * (np.array([16, 6], ">i4").tobytes() + b"canary.."))
header("an_extension_past_the_voxels", 0, "BAD_HEADER", extension=np.array([4096, 6], "<i4").tobytes() + bytes(24))
header("an_extension_of_no_size", 1, extension=bytes(16))
for kind, bits in (("i2", 8), ("i2", 32), ("f4", 64), ("u1", 16), ("i2", 0)):
    header(f"bitpix_{bits}_of_{kind}", 0, "BAD_HEADER", kind=kind, bitpix=bits)
header("bitpix_and_type_of_half", 0, "CORRUPT", datatype=2, bitpix=8)
header("magic_of_a_pair", 0, "BAD_HEADER", magic=b"ni1")
header("magic_of_nifti_2_in_nifti_1", 0, "BAD_HEADER", magic=b"n+2")
header("magic_missing", 0, "BAD_HEADER", magic=b"")
header("magic_of_nifti_2_in_text_mode", 0, "BAD_HEADER", version=2, eol_check=[10, 10, 26, 10])
header("size_of_header_lies", 0, "BAD_HEADER", whole=at(nifti(), 0))

# Where the voxels lie.
header("both_forms", 1)
header("qform_only", 1, forms="q")
header("sform_only", 1, forms="s")
header("forms_of_a_template", 1, sform_code=4, qform_code=1)
header("axis_aligned", 1, affine=affine_of(np.eye(3)))
header("left_handed", 1, affine=affine_of(turned(10, -20, 30) * [-1, 1, 1]))
header("left_handed_by_qform_only", 1, affine=affine_of(turned(10, -20, 30) * [-1, 1, 1]), forms="q")
header("sagittal", 1, affine=affine_of([[0, 0, -1], [-1, 0, 0], [0, 1, 0]]))
header("qfac_zero", 1, forms="q", pixdim=[0, *SPACING, 1, 1, 1, 1])
header("half_a_turn_a_little_oblique", 1, affine=affine_of(turned(0.005, 0.004, 179.995)))
header("half_a_turn_about_x", 1, affine=affine_of(turned(180, 0, 0)))
header("half_a_turn_by_qform_only", 1, affine=affine_of(turned(0, 0, 180)), forms="q")
header("forms_equal_but_for_float32", 1, **srow(x=np.nextafter(OBLIQUE[0].astype("f4"), np.float32(1e3))))
header("forms_0.05_mm_apart", 1, **two_forms(OBLIQUE, moved(OBLIQUE, 0.05)))
header("forms_0.2_mm_apart", 0, "ORIENTATION_CONFLICT", **two_forms(OBLIQUE, moved(OBLIQUE, 0.2)))
header("forms_of_other_spacing", 0, "ORIENTATION_CONFLICT", pixdim=[1, 3, 1, 5, 1, 1, 1, 1])
header("left_and_right_swapped_between_forms", 0, "ORIENTATION_CONFLICT", **two_forms(OBLIQUE, OBLIQUE * [-1, 1, 1, 1]))
header("qfac_contradicts_sform", 0, "ORIENTATION_CONFLICT", pixdim=[-1, *SPACING, 1, 1, 1, 1])
header("pixdim_contradicts_sform_alone", 0, "ORIENTATION_CONFLICT", forms="s", pixdim=[1, 3, 1, 5, 1, 1, 1, 1])
header("qfac_is_a_number_of_dims", 0, "ORIENTATION", forms="q", pixdim=[4, *SPACING, 1, 1, 1, 1])
header("qfac_nan", 0, "ORIENTATION", forms="q", pixdim=[NAN, *SPACING, 1, 1, 1, 1])
header("both_codes_zero", 0, "ORIENTATION", forms="")
header("codes_negative", 0, "ORIENTATION", sform_code=-1, qform_code=-2)
header("sform_nan", 0, "ORIENTATION", forms="s", **srow(x=[NAN, 0, 0, 0]))
header("sform_zero", 0, "ORIENTATION", forms="s", **srow(x=[0] * 4, y=[0] * 4, z=[0] * 4))
header("sform_zero_beside_a_qform", 0, "ORIENTATION", **srow(x=[0] * 4, y=[0] * 4, z=[0] * 4))
header("sform_singular", 0, "ORIENTATION", forms="s", **srow(x=[1.5, 1.25, 0, 0], y=[0, 0, 0, 0], z=[0, 0, 2.5, 0]))
header("sform_sheared", 0, "ORIENTATION", forms="s", **srow(x=[1.5, 0.01, 0, 0], y=[0, 1.25, 0, 0], z=[0, 0, 2.5, 0]))
header("sform_infinite", 0, "ORIENTATION", forms="s", **srow(x=[np.inf, 0, 0, 0]))
header("sform_of_1e30", 0, "ORIENTATION", forms="s", **srow(x=[1e30, 0, 0, 0]))
header("a_kilometre_away", 0, "ORIENTATION", affine=affine_of(origin=(1e6, 0, 0)))
header("spacing_of_metres", 0, "PIXEL_SPACING", affine=affine_of(spacing=SPACING * 1000))
header("spacing_of_a_micron", 0, "PIXEL_SPACING", affine=affine_of(spacing=SPACING / 2000))
header("quaternion_longer_than_one", 0, "ORIENTATION", forms="q", quatern_b=0.9, quatern_c=0.9)
header("quaternion_nan", 0, "ORIENTATION", forms="q", quatern_b=NAN)
header("qoffset_nan", 0, "ORIENTATION", forms="q", qoffset_x=NAN)
for name, value in {"zero": 0, "negative": -1.5, "nan": NAN, "infinite": np.inf}.items():
    for forms in ("sq", "s", "q"):
        header(f"pixdim_{name}_{forms}", 0, "PIXEL_SPACING", forms=forms, pixdim=[1, value, 1.25, 2.5, 1, 1, 1, 1])
MILLI = np.diag([1e-3, 1e-3, 1e-3, 1])
for name, unit, scale in (("metres", 1, 1e-3), ("microns", 3, 1e3)):
    other = np.diag([scale, scale, scale, 1]) @ OBLIQUE
    header(f"units_of_{name}", 1, xyzt_units=unit, affine=other, values=values_of(), check=holds(kind=np.int16))
header("units_unknown", 1, xyzt_units=0)
header("units_with_those_of_time", 1, xyzt_units=2 | 8)
header("units_that_are_none", 0, "BAD_HEADER", xyzt_units=5)
header("big_endian", 1, order=">")
header("nifti_2", 1, version=2)
header("nifti_2_in_big_endian", 1, version=2, order=">")


def pair(name, volumes=0, codes="", *, ending=".img", head=None, voxels=None, extra=None, pack=False, check=None, **options):
    """A header and its voxels in two files; each may be changed by a function, ``extra`` adds to the folder."""

    def build(folder: Path) -> None:
        first, second = nifti(pair=True, split=True, **options)
        first, second = (head or bytes)(first), (voxels or bytes)(second)
        put(folder, "scan.hdr" + ".gz" * bool(pack), packed(first) if pack == 1 else first)
        if second:
            put(folder, f"scan{ending}", second)
        if extra is not None:
            extra(folder, second)

    build.__name__ = f"nifti_pair_{name}"
    case(volumes, codes, check=check or (holds(kind=np.int16) if volumes else None))(build)


def linked(folder: Path, voxels: bytes) -> None:
    put(folder.parent, "elsewhere", voxels)
    (folder / "scan.img").unlink()
    (folder / "scan.img").symlink_to(folder.parent / "elsewhere")


pair("of_files", 1)
pair("of_nifti_2_in_big_endian", 1, version=2, order=">")
pair("of_packed_voxels", 1, ending=".img.gz", voxels=packed)
pair("both_packed", 1, ending=".img.gz", voxels=packed, pack=True)
pair("in_capitals", 1, ending=".IMG")
pair("voxels_late", 1, vox_offset=16, voxels=lambda data: bytes(16) + data)
pair("header_without_the_four_bytes_behind", 1, head=lambda data: data[:348])
pair("voxels_missing", 0, "DETACHED", voxels=lambda data: b"")
pair("voxels_cut", 0, "TRUNCATED", voxels=lambda data: data[: len(data) // 2])
pair("voxels_cut_in_gz", 0, "TRUNCATED", ending=".img.gz", voxels=lambda data: packed(data)[:-9])
pair("voxels_flipped_in_gz", 0, "CORRUPT", ending=".img.gz", voxels=lambda data: at(packed(data), -6))
pair("garbage_behind_voxels", 0, "CORRUPT", voxels=lambda data: data + b"garbage")
pair("voxels_empty", 0, "EMPTY", extra=lambda folder, data: put(folder, "scan.img", b""))
pair("header_flipped_in_gz", 0, "CORRUPT", pack=2, head=lambda data: at(packed(data), -6))
pair("header_cut", 0, "TRUNCATED", head=lambda data: data[:300])
pair("magic_of_one_file", 0, "BAD_HEADER", magic=b"n+1")
pair("of_analyze", 0, "BAD_HEADER", magic=b"")
pair("two_files_of_voxels", 0, "CONFLICT", extra=lambda folder, data: put(folder, "scan.img.gz", packed(data)))
pair("voxels_behind_a_link", 0, "DETACHED LINK", extra=linked)
pair("voxels_are_a_folder", 0, "DETACHED", voxels=lambda data: b"", extra=lambda folder, data: (folder / "scan.img").mkdir())
