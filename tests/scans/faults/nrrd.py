"""NRRD cases: cut and flipped data, headers that lie, spaces and units, data files where they should not be, unusual but valid files."""

import os
from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.phantom import turned
from faults.text_files import exact, file_case, half, nrrd, spoiled
from faults.volume_files import affine_of, at, holds, packed, put, raw_of, values_of

NRRD = Table("metaimage")
case = NRRD.case
FIELD = values_of()


file = file_case(case, nrrd, "nrrd", ".nrrd")

file("raw", 1)
for encoding in ("gzip", "bzip2"):
    file(encoding, 1, encoding=encoding)
    file(f"{encoding}_cut", 0, "TRUNCATED", encoding=encoding, data=half)
    file(f"{encoding}_without_its_end", 0, "TRUNCATED", encoding=encoding, data=lambda data: data[:-4])
    file(f"{encoding}_flipped", 0, "CORRUPT", encoding=encoding, data=lambda data: at(data, len(data) // 2))
    file(f"{encoding}_with_garbage_behind", 0, "CORRUPT", encoding=encoding, data=lambda data: data + b"garbage")
    file(f"{encoding}_that_is_raw", 0, "CORRUPT", data=bytes, whole=nrrd().replace(b"encoding: raw", f"encoding: {encoding}".encode()))
file("gzip_checksum_flipped", 0, "CORRUPT", encoding="gzip", data=lambda data: at(data, -6))
file("gzip_in_two_members", 1, data=lambda data: packed(data[:700]) + packed(data[700:]), encoding="gzip", check=None,
     whole=nrrd(data=lambda data: packed(data[:700]) + packed(data[700:])).replace(b"encoding: raw", b"encoding: gz"))  # fmt: skip
file("raw_cut", 0, "TRUNCATED", data=half)
file("raw_one_byte_short", 0, "TRUNCATED", data=lambda data: data[:-1])
file("raw_with_garbage_behind", 0, "CORRUPT", data=lambda data: data + b"garbage")
file("raw_with_zeros_behind", 1, data=lambda data: data + bytes(16))
file("raw_with_a_slice_of_zeros_behind", 0, "TOO_LARGE", data=lambda data: data + bytes(180))
file("header_cut", 0, "TRUNCATED", whole=nrrd().partition(b"endian")[0])
file("header_cut_in_a_line", 0, "BAD_HEADER", whole=nrrd().partition(b"directions")[0])
file("header_only", 0, "TRUNCATED", data=lambda data: b"")
file("zero_bytes", 0, "EMPTY", whole=b"")
for encoding in ("text", "ascii", "hex", "txt"):
    file(f"encoding_{encoding}", 0, "TRANSFER_SYNTAX", encoding=encoding)
file("encoding_missing", 0, "BAD_HEADER", whole=nrrd().replace(b"encoding: raw\n", b""))
for kind in ("i1", "u1"):
    low = np.rint(FIELD - FIELD.min() + (-128 if kind == "i1" else 0)).clip(-128 if kind == "i1" else 0, 127 if kind == "i1" else 255)
    file(f"type_{kind}_without_endian", 1, kind=kind, values=low, endian=None, check=exact(low, np.int16))
for kind in ("i2", "u2", "i4", "u4", "i8"):
    file(f"type_{kind}_in_big_endian", 1, kind=kind, order=">")
for kind in ("f4", "f8"):
    file(f"type_{kind}_in_big_endian", 1, kind=kind, order=">", check=exact(FIELD.astype("f4"), np.float32))
file("type_with_blanks", 1, kind="u2", type="unsigned short int")
file("type_block", 0, "DATA_TYPE", type="block", block_size="2")
file("type_unknown", 0, "DATA_TYPE", type="shirt")
file("endian_missing", 0, "BAD_HEADER", endian=None)
file("endian_unknown", 0, "BAD_HEADER", endian="middle")
for name, value in {"nan": np.nan, "infinite": np.inf, "1e38": 1e38}.items():
    file(name, 0, "NOT_FINITE", kind="f4", values=spoiled(value), encoding="gzip")
file("i8_out_of_range", 0, "DATA_TYPE", kind="i8", values=spoiled(2**40))
file("sizes_huge", 0, "TOO_LARGE", sizes="2000 2000 2000")
file("sizes_of_64_bits", 0, "TOO_LARGE", sizes="9223372036854775 10 10")
file("sizes_past_any_number", 0, "BAD_HEADER", sizes=f"{10**30} 10 10")
file("sizes_negative", 0, "DIMENSIONS", sizes="10 -9 8")
file("sizes_zero", 0, "DIMENSIONS", sizes="10 0 8")
file("sizes_with_an_underscore", 0, "BAD_HEADER", sizes="1_0 9 8")
file("sizes_of_two", 0, "BAD_HEADER", sizes="10 72")
file("sizes_claim_less", 0, "CORRUPT", sizes="10 9 7")
file("sizes_claim_more", 0, "TRUNCATED", sizes="10 9 9")
FOUR = {"dimension": 4, "kinds": "vector domain domain domain", "space_directions": "none (1.5,0,0) (0,1.25,0) (0,0,2.5)"}
file("vector", 0, "DATA_TYPE", sizes="3 10 9 8", data=lambda data: 3 * data, **FOUR)
file("vector_of_one", 1, sizes="1 10 9 8", affine=affine_of(np.diag([-1, -1, 1])), **FOUR)
file("list_of_times", 0, "DIMENSIONS", kinds="domain domain list")
file("two_dimensions", 0, "ORIENTATION", dimension=2, sizes="10 72", kinds="domain domain")

for space in ("right-anterior-superior", "left-anterior-superior"):
    file(f"space_{space.split('-')[0]}_anterior", 1, space=space)
file("space_as_three_letters", 1, whole=nrrd(space="right-anterior-superior").replace(b"space: right-anterior-superior", b"space: RAS"))
for name in ("scanner-xyz", "left-posterior-superior-time", "3D-right-handed", "unknown"):
    file(f"space_{name}", 0, "ORIENTATION", space=name)
file("space_missing", 0, "ORIENTATION", whole=nrrd().replace(b"space: left-posterior-superior\n", b""))
file("space_dimension_alone", 0, "ORIENTATION", whole=nrrd().replace(b"space: left-posterior-superior\n", b"space dimension: 3\n"))
file("spacings_alone", 0, "ORIENTATION", space_directions=None, spacings="1.5 1.25 2.5")
file("spacings_that_repeat", 1, spacings="1.5 1.25 2.5")
file("spacings_that_are_none", 1, spacings="nan nan nan")
file("spacings_that_contradict", 0, "ORIENTATION_CONFLICT", spacings="1 1 1")
file("left_handed", 1, affine=affine_of(turned(10, -20, 30) * [-1, 1, 1]))
file("axes_permuted", 1, affine=affine_of([[0, 0, -1], [-1, 0, 0], [0, 1, 0]]))
file("directions_sheared", 0, "ORIENTATION", space_directions="(1.5,0,0) (0.01,1.25,0) (0,0,2.5)")
file("directions_zero", 0, "ORIENTATION", space_directions="(1.5,0,0) (0,0,0) (0,0,2.5)")
file("directions_nan", 0, "ORIENTATION", space_directions="(1.5,0,0) (nan,nan,nan) (0,0,2.5)")
file("directions_missing", 0, "ORIENTATION", space_directions=None)
file("directions_of_two_numbers", 0, "ORIENTATION", space_directions="(1.5,0) (0,1.25) (0,2.5)")
file("directions_with_a_letter", 0, "ORIENTATION", space_directions="(1.5,0,0) (0,1.2S,0) (0,0,2.5)")
file("origin_missing", 0, "ORIENTATION", space_origin=None)
file("origin_infinite", 0, "ORIENTATION", space_origin="(1e999,0,0)")
file("units_of_mm", 1, space_units='"mm" "mm" "mm"')
file("units_of_metres", 1, space_units='"m" "m" "m"', whole=None, scale=1e-3)
file("units_of_microns", 1, space_units='"um" "um" "um"', scale=1e3)
file("units_that_differ", 0, "BAD_HEADER", space_units='"mm" "mm" "cm"')
file("units_unknown", 0, "BAD_HEADER", space_units='"furlong" "furlong" "furlong"')
file("centres_of_nodes", 1, centerings="node node node")  # the origin is the first sample's centre either way
file("measurement_frame", 1, measurement_frame="(0,1,0) (1,0,0) (0,0,1)")
file("axis_mins_beside_space", 0, "ORIENTATION", axis_mins="0 0 0")
file("keys_and_comments", 1, lines=("Canary:=a value: with marks", "# space: RAS", "modality:=CT", "content: Canary"))
file("lines_of_windows", 1, whole=b"".join((nrrd(split=True)[0].replace(b"\n", b"\r\n"), nrrd(split=True)[1])))
file("first_version", 1, magic="NRRD0001")
file("version_unknown", 0, "BAD_HEADER", magic="NRRD0009")
file("field_twice", 0, "BAD_HEADER", lines=("sizes: 10 9 8",))
file("field_unknown", 0, "BAD_HEADER", lines=("space origjn: (0,0,0)",))
file("line_of_nothing", 0, "BAD_HEADER", lines=("what is this",))
file("named_otherwise", 1, suffix=".dat")


def detached(name, volumes=0, codes="", *, data="voxels.raw", put_at="voxels.raw", voxels=None, extra=None, suffix=".nhdr", **options):
    """A case of a header, and its voxels in a file of their own."""

    def build(folder: Path) -> None:
        first, second = nrrd(split=True, data_file=data(folder) if callable(data) else data, **options)
        put(folder, f"scan{suffix}", first)
        if put_at:
            place = folder / put_at
            put(place.parent, place.name, (voxels or bytes)(second))
        if extra is not None:
            extra(folder)

    build.__name__ = f"nrrd_detached_{name}"
    case(volumes, codes, check=holds(kind=np.int16) if volumes else None)(build)


def link(folder: Path) -> None:
    os.symlink(folder.parent / "voxels.raw", folder / "linked.raw")


detached("raw", 1)
detached("gzip", 1, encoding="gzip", data="voxels.raw.gz", put_at="voxels.raw.gz")
detached("named_nrrd", 1, suffix=".nrrd")
detached("missing", 0, "DETACHED", put_at="")
detached("cut", 0, "TRUNCATED", voxels=half)
detached("gzip_cut", 0, "TRUNCATED", voxels=half, encoding="gzip")
detached("gzip_flipped", 0, "CORRUPT", voxels=lambda data: at(data, -6), encoding="gzip")
detached("with_garbage_behind", 0, "CORRUPT", voxels=lambda data: data + b"garbage")
detached("in_a_parent_folder", 0, "DETACHED", data="../voxels.raw", put_at="../voxels.raw")
detached("at_an_absolute_path", 0, "DETACHED", data=lambda folder: folder.parent / "voxels.raw", put_at="../voxels.raw")
detached("in_a_folder_below", 0, "DETACHED", data="below/voxels.raw", put_at="below/voxels.raw")
detached("behind_a_link", 0, "DETACHED LINK", data="linked.raw", put_at="../voxels.raw", extra=link)
detached("is_the_folder", 0, "DETACHED", data=".")
detached("list", 0, "DETACHED", data="LIST", put_at="LIST.raw")
detached("pattern", 0, "DETACHED", data="voxels%02d.raw 1 8 1 2")
detached("behind_bytes", 1, byte_skip=100, voxels=lambda data: bytes(range(100)) + data)
detached("behind_bytes_in_gzip", 1, byte_skip=100, encoding="gzip", voxels=lambda data: packed(bytes(100) + raw_of(FIELD, "i2")))
detached("behind_lines", 1, line_skip=2, voxels=lambda data: b"one\ntwo\n" + data)
detached("behind_lines_and_bytes", 1, line_skip=1, byte_skip=3, voxels=lambda data: b"one\nabc" + data)
detached("at_the_end_of_its_file", 1, byte_skip=-1, voxels=lambda data: b"some other header" + data)
detached("at_the_end_of_a_cut_file", 0, "TRUNCATED", byte_skip=-1, voxels=half)
detached("at_the_end_of_gzip", 0, "BAD_HEADER", byte_skip=-1, encoding="gzip")
detached("behind_more_bytes_than_there_are", 0, "TRUNCATED", byte_skip=5000)
detached("behind_fewer_bytes_than_nothing", 0, "BAD_HEADER", byte_skip=-2)
