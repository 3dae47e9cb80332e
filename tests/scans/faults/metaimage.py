"""MetaImage cases: cut and flipped data, headers that lie, contradictory orientation, data files that lie elsewhere, valid oddities."""

import os
import zlib
from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.phantom import turned
from faults.text_files import exact, file_case, half, mha, spoiled
from faults.volume_files import affine_of, at, holds, packed, put, raw_of, values_of

METAIMAGE = Table("metaimage")
case = METAIMAGE.case
FIELD = values_of()
PACKED = zlib.compress(raw_of(FIELD, "i2"))


file = file_case(case, mha, "metaimage", ".mha")

file("raw", 1)
file("packed", 1, pack=True)
file("packed_without_its_size", 0, "BAD_HEADER", pack=True, CompressedDataSize=None)
file("packed_by_gzip", 1, pack=True, data=lambda data: packed(raw_of(FIELD, "i2")))
file("packed_and_cut", 0, "TRUNCATED", pack=True, data=half)
file("packed_without_its_checksum", 0, "TRUNCATED", pack=True, data=lambda data: data[:-4])
file("packed_and_flipped", 0, "CORRUPT", pack=True, data=lambda data: at(data, len(data) // 2))
file("packed_checksum_flipped", 0, "CORRUPT", pack=True, data=lambda data: at(data, -1))
file("packed_with_garbage_behind", 0, "CORRUPT", pack=True, data=lambda data: data + b"garbage")
file("packed_with_garbage_behind_its_size", 0, "CORRUPT", pack=True, data=lambda data: data + b"garbage", CompressedDataSize=len(PACKED))
file("packed_size_too_small", 0, "CORRUPT", pack=True, CompressedDataSize=100)
file("packed_size_too_large", 0, "TRUNCATED", pack=True, CompressedDataSize=10**6)
file("packed_that_is_not", 0, "CORRUPT", CompressedData=True, CompressedDataSize=1440)
file("not_packed_that_is", 0, "TRUNCATED", pack=True, CompressedData=False)
file("packed_more_than_it_claims", 0, "CORRUPT", pack=True, data=lambda data: zlib.compress(raw_of(FIELD, "i2") * 2))
file("raw_cut", 0, "TRUNCATED", data=half)
file("raw_with_garbage_behind", 0, "CORRUPT", data=lambda data: data + b"garbage")
file("header_cut", 0, "TRUNCATED", whole=mha()[:150])
file("header_only", 0, "TRUNCATED", data=lambda data: b"")
file("zero_bytes", 0, "EMPTY", whole=b"")
for kind in ("i1", "u1"):
    low = np.rint(FIELD - FIELD.min() + (-128 if kind == "i1" else 0)).clip(-128 if kind == "i1" else 0, 127 if kind == "i1" else 255)
    file(f"type_{kind}_without_byte_order", 1, kind=kind, values=low, BinaryDataByteOrderMSB=None, check=exact(low, np.int16))
for kind in ("i2", "u2", "i4", "u4", "i8"):
    file(f"type_{kind}_in_big_endian", 1, kind=kind, order=">")
for kind in ("f4", "f8"):
    file(f"type_{kind}_in_big_endian", 1, kind=kind, order=">", check=exact(FIELD.astype("f4"), np.float32))
file("type_long_of_four_bytes", 1, kind="i4", ElementType="MET_LONG")
file("type_array", 0, "DATA_TYPE", ElementType="MET_SHORT_ARRAY")
file("type_unknown", 0, "DATA_TYPE", ElementType="MET_SHIRT")
file("type_missing", 0, "DATA_TYPE", ElementType=None)
file("byte_order_missing", 0, "BAD_HEADER", BinaryDataByteOrderMSB=None)
file("byte_order_under_its_other_name", 1, order=">", BinaryDataByteOrderMSB=None, ElementByteOrderMSB=True)
file("byte_order_twice_and_equal", 1, ElementByteOrderMSB=False)
file("byte_order_twice_and_not_equal", 0, "BAD_HEADER", ElementByteOrderMSB=True)
file("byte_order_that_is_none", 0, "BAD_HEADER", BinaryDataByteOrderMSB="Maybe")
file("text_voxels", 0, "TRANSFER_SYNTAX", BinaryData=False)
for name, value in {"nan": np.nan, "infinite": np.inf, "1e38": 1e38}.items():
    file(name, 0, "NOT_FINITE", kind="f4", values=spoiled(value), pack=True)
file("sizes_huge", 0, "TOO_LARGE", DimSize="2000 2000 2000")
file("sizes_past_any_number", 0, "BAD_HEADER", DimSize=f"{10**30} 10 10")
file("sizes_negative", 0, "DIMENSIONS", DimSize="10 -9 8")
file("sizes_zero", 0, "DIMENSIONS", DimSize="10 0 8")
file("sizes_missing", 0, "BAD_HEADER", DimSize=None)
file("sizes_of_two", 0, "DIMENSIONS", DimSize="10 72")
file("sizes_claim_less", 0, "CORRUPT", DimSize="10 9 7")
file("sizes_claim_more", 0, "TRUNCATED", DimSize="10 9 9")
file("four_dimensions_placed_in_three", 0, "BAD_HEADER", NDims=4, DimSize="10 9 8 1")
file("vector", 0, "DATA_TYPE", ElementNumberOfChannels=3, data=lambda data: 3 * data)
file("one_channel", 1, ElementNumberOfChannels=1)
file("another_object", 0, "BAD_HEADER", ObjectType="Tube")

file("axis_aligned", 1, affine=affine_of(np.diag([-1, -1, 1])), AnatomicalOrientation="RAI")
file("left_handed", 1, affine=affine_of(turned(10, -20, 30) * [-1, 1, 1]))
file("axes_permuted", 1, affine=affine_of([[0, 0, -1], [-1, 0, 0], [0, 1, 0]]), AnatomicalOrientation=None)
file("letters_unknown", 1, AnatomicalOrientation="???")
file("letters_that_say_where_axes_go_to", 1, affine=affine_of(np.diag([-1, -1, 1])), AnatomicalOrientation="LPS")
file("letters_that_contradict", 0, "ORIENTATION_CONFLICT", affine=affine_of(np.diag([-1, -1, 1])), AnatomicalOrientation="LAI")
file("letters_of_other_axes", 0, "ORIENTATION_CONFLICT", affine=affine_of(np.diag([-1, -1, 1])), AnatomicalOrientation="ARI")
file("matrix_sheared", 0, "ORIENTATION", TransformMatrix="1 0 0 0.01 1 0 0 0 1")
file("matrix_zero", 0, "ORIENTATION", TransformMatrix="0 0 0 0 0 0 0 0 0")
file("matrix_that_scales", 0, "ORIENTATION", TransformMatrix="1.5 0 0 0 1.25 0 0 0 2.5")
file("matrix_missing", 0, "ORIENTATION", TransformMatrix=None)
file("matrix_of_eight_numbers", 0, "BAD_HEADER", TransformMatrix="1 0 0 0 1 0 0 0")
file("matrix_nan", 0, "BAD_HEADER", TransformMatrix="nan 0 0 0 1 0 0 0 1")
file("offset_missing", 0, "ORIENTATION", Offset=None)
file("offset_with_a_letter", 0, "BAD_HEADER", Offset="1 2e 3")
file("offset_with_an_underscore", 0, "BAD_HEADER", Offset="1 2_0 3")
file("offset_twice_and_not_equal", 0, "BAD_HEADER", Position="1 2 3")
file("centre_of_rotation", 0, "ORIENTATION_CONFLICT", CenterOfRotation="1 2 3")
file("spacing_missing", 0, "PIXEL_SPACING", ElementSpacing=None)
file("spacing_as_size", 1, ElementSpacing=None, ElementSize="1.5 1.25 2.5")
file("spacing_zero", 0, "PIXEL_SPACING", ElementSpacing="1.5 0 2.5")
file("spacing_negative", 0, "PIXEL_SPACING", ElementSpacing="1.5 -1.25 2.5")
file("units_of_cm", 1, DistanceUnits="cm", scale=0.1)
file("units_of_um", 1, DistanceUnits="um", scale=1e3)
file("units_unknown", 0, "BAD_HEADER", DistanceUnits="furlong")
file("intensity_function", 0, "SCALING", ElementToIntensityFunctionSlope=2)
file("words_that_nobody_knows", 1, Comment="Canary", ITK_InputFilterName="NrrdImageIO", Modality="MET_MOD_CT")
file("line_of_nothing", 0, "BAD_HEADER", lines=("what is this",))
file("word_twice", 0, "BAD_HEADER", lines=("DimSize = 9 10 8",))
file("lines_of_windows", 1, whole=b"".join((mha(split=True)[0].replace(b"\n", b"\r\n"), mha(split=True)[1])))


def detached(name, volumes=0, codes="", *, data="scan.raw", put_at="scan.raw", voxels=None, extra=None, **options):
    """A case of a header, and its voxels in a file of their own."""

    def build(folder: Path) -> None:
        first, second = mha(split=True, file=data(folder) if callable(data) else data, **options)
        put(folder, "scan.mhd", first)
        if put_at:
            place = folder / put_at
            put(place.parent, place.name, (voxels or bytes)(second))
        if extra is not None:
            extra(folder)

    build.__name__ = f"metaimage_detached_{name}"
    case(volumes, codes, check=holds(kind=np.int16) if volumes else None)(build)


def link(folder: Path) -> None:
    os.symlink(folder.parent / "scan.raw", folder / "linked.raw")


detached("raw", 1)
detached("packed", 1, pack=True, data="scan.zraw", put_at="scan.zraw")
detached("missing", 0, "DETACHED", put_at="")
detached("cut", 0, "TRUNCATED", voxels=half)
detached("packed_and_cut", 0, "TRUNCATED", voxels=half, pack=True)
detached("packed_and_flipped", 0, "CORRUPT", voxels=lambda data: at(data, -1), pack=True)
detached("with_garbage_behind", 0, "CORRUPT", voxels=lambda data: data + b"garbage")
detached("in_a_parent_folder", 0, "DETACHED", data="../scan.raw", put_at="../scan.raw")
detached("at_an_absolute_path", 0, "DETACHED", data=lambda folder: folder.parent / "scan.raw", put_at="../scan.raw")
detached("behind_a_link", 0, "DETACHED LINK", data="linked.raw", put_at="../scan.raw", extra=link)
detached("list", 0, "DETACHED", data="LIST")
detached("pattern", 0, "DETACHED", data="scan%03d.raw 1 8 1")
detached("behind_a_header", 1, HeaderSize=100, voxels=lambda data: bytes(range(100)) + data)
detached("at_the_end_of_its_file", 1, HeaderSize=-1, voxels=lambda data: b"some other header" + data)
detached("at_the_end_of_a_cut_file", 0, "TRUNCATED", HeaderSize=-1, voxels=half)
detached("behind_a_header_of_packed_voxels", 0, "BAD_HEADER", HeaderSize=100, pack=True)
file("behind_a_header", 0, "BAD_HEADER", HeaderSize=100)
