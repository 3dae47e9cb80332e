"""DICOM cases: Siemens mosaics, with the CSA header that says what their tiles are."""

import math
import struct
from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.dicom_coding import compress
from faults.dicom_geometry import CORONAL, OBLIQUE, SAGITTAL
from faults.series import SHAPE, SPACING, STEP, make_enhanced, make_series, make_slice, save, store, stored, uid
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

MOSAIC = Table("dicom")
case = MOSAIC.case
ITEMS = 6  # that a tag with a value has in files from scanners, empty ones with it


def csa_header(tags: dict[str, tuple[str, list]], form: str = "SV10") -> bytes:
    """Tags are (type, values) by name. Forms: ``SV10``; of the older kind ``plain``, whose items say their length, and ``counted``, whose
    items say their length and the number of the first tag's items."""
    raw = b"SV10\4\3\2\1" if form == "SV10" else b""
    raw += struct.pack("<II", len(tags), 77)
    for name, (kind, values) in tags.items():
        number = max(ITEMS, len(values)) if values else 0
        raw += struct.pack("<64si4siii", name.encode(), len(values), kind.encode(), 0, number, 77 if values else 205)
        for place in range(number):
            text = _text(values[place]) if place < len(values) else b""
            length = len(text) + (ITEMS if form == "counted" else 0)
            raw += struct.pack("<4i", length, length, 77 if text else 205, length) + text + bytes(-len(text) % 4)
    return raw + bytes(4)


def _text(value) -> bytes:
    return (f"{value:.8f}" if isinstance(value, float) else f"{value:<8}").encode() + b"\0"


def make_mosaic(number=7, orientation=(1, 0, 0, 0, 1, 0), *, shape=SHAPE, step=STEP, offset=0.0, slope=1.0, time=0, form="SV10", tags=None,
                wide=0, csa=True):  # fmt: skip
    """``number`` tiles of a shape in a square; ``step`` below 0: slices follow each other against the normal. ``tags``: of the CSA header,
    instead of the right ones or beside them (None: without)."""
    tiles = [make_slice(k, k * step, orientation, modality="MR", shape=shape, offset=offset, slope=slope, inter=0.0) for k in range(number)]
    wide, ds = wide or math.ceil(math.sqrt(number)), tiles[0]
    square = np.zeros((wide * wide, *shape))
    square[:number] = [stored(tile) for tile in tiles]
    store(ds, square.reshape(wide, wide, *shape).transpose(0, 2, 1, 3).reshape(wide * shape[0], wide * shape[1]))
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    back = (row * shape[1] * SPACING[1] + column * shape[0] * SPACING[0]) * (wide - 1) / 2
    ds.ImagePositionPatient = [f"{c:.9f}"[:16] for c in np.array(ds.ImagePositionPatient, float) - back]
    ds.ImageType, ds.Manufacturer, ds.SpacingBetweenSlices = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "SIEMENS", abs(step)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("mosaic", number, offset, time)
    ds.InstanceNumber = ds.AcquisitionNumber = time + 1
    normal = np.cross(row, column) * np.sign(step)
    right = {
        "EchoLinePosition": ("IS", [6]),
        "B_value": ("IS", []),
        "AcquisitionMatrixText": ("SH", [f"{shape[0]}*{shape[1]}"]),
        "NumberOfImagesInMosaic": ("US", [number]),
        "SliceNormalVector": ("FD", [float(c) for c in normal]),
        "MosaicRefAcqTimes": ("FD", [2.5 * k for k in range(number)]),
    }
    wanted = {name: tag for name, tag in (right | (tags or {})).items() if tag is not None}
    if csa:
        ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa_header(wanted, form))
    return ds


def csa_of(ds) -> bytes:
    return ds.private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value


def put_csa(ds, raw: bytes) -> None:
    ds.private_block(0x0029, "SIEMENS CSA HEADER")[0x10].value = raw


def simple(name, volumes=1, codes="", *, act=None, expected=None, **options):
    """The case of one mosaic, which ``act`` changes."""

    def build(folder: Path) -> None:
        ds = make_mosaic(**options)
        if act is not None:
            act(ds)
        save([ds], folder)

    build.__name__ = f"mosaic_{name}"
    case(volumes, codes, **(expected or {}))(build)


simple("axial")
simple("sagittal", orientation=SAGITTAL)
simple("coronal", orientation=CORONAL)
simple("oblique", orientation=OBLIQUE)
simple("without_empty_tiles", number=9)
simple("of_four", number=4)
simple("of_ten_in_four_by_four", number=10)
simple("of_odd_tiles", number=13, shape=(13, 9))
simple("against_the_normal", step=-STEP)
simple("against_the_normal_oblique", orientation=OBLIQUE, step=-STEP, number=12)
simple("against_the_normal_sagittal", orientation=SAGITTAL, step=-STEP)
simple("scaled", slope=0.5)
simple("older_header", form="plain")
simple("older_header_that_counts_items", form="counted")
simple("jpeg_ls", act=lambda ds: compress(ds, JPEGLSLossless))
simple("rle", act=lambda ds: compress(ds, RLELossless))
simple("implicit", act=lambda ds: setattr(ds.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian))
simple("without_times_of_slices", tags={"MosaicRefAcqTimes": None})
simple("whose_header_repeats_the_distance", tags={"SpacingBetweenSlices": ("FD", [STEP])})
simple("with_the_distance_in_the_csa_header", tags={"SpacingBetweenSlices": ("FD", [STEP])},
       act=lambda ds: delattr(ds, "SpacingBetweenSlices"))  # fmt: skip
simple("of_three", 0, "TOO_FEW_SLICES", number=3)


def refused(name, **options) -> None:
    simple(name, 0, "MOSAIC", **options)


def image(**tag):
    return {"tags": {name: (("US" if name.startswith("Number") else "FD"), values) for name, values in tag.items()}}


refused("without_csa_header", csa=False)
refused("without_number", tags={"NumberOfImagesInMosaic": None})
refused("of_seven_and_a_half", **image(NumberOfImagesInMosaic=["7.5"]))
refused("of_none", **image(NumberOfImagesInMosaic=[0]))
refused("of_a_number_that_is_none", **image(NumberOfImagesInMosaic=["seven"]))
refused("of_two_numbers", **image(NumberOfImagesInMosaic=[7, 7]))
refused("of_more_tiles_than_times", number=8, tags={"NumberOfImagesInMosaic": ("US", [9])})
refused("of_fewer_tiles_than_are_full", number=9, tags={"NumberOfImagesInMosaic": ("US", [8]), "MosaicRefAcqTimes": None})
refused("of_tiles_that_do_not_fit", number=9, tags={"NumberOfImagesInMosaic": ("US", [14]), "MosaicRefAcqTimes": None}, shape=(10, 10))
refused(
    "of_four_thousand_tiles_of_a_pixel", number=4, shape=(34, 34),
    tags={"NumberOfImagesInMosaic": ("US", [68 * 68]), "MosaicRefAcqTimes": None},
)  # fmt: skip
refused("in_too_wide_a_square", number=9, wide=4, tags={"MosaicRefAcqTimes": None})
refused(
    "of_another_number_in_another_element", act=lambda ds: ds.private_block(0x19, "SIEMENS MR HEADER", create=True).add_new(10, "US", 6)
)
refused("without_normal", tags={"SliceNormalVector": None})
refused("with_a_normal_within_the_plane", **image(SliceNormalVector=[1.0, 0.0, 0.0]))
refused("with_a_normal_that_is_turned", **image(SliceNormalVector=[0.0, 0.00523596, 0.99998629]))
refused("with_a_normal_of_two", **image(SliceNormalVector=[0.0, 1.0]))
refused("with_a_normal_that_is_none", **image(SliceNormalVector=["nan", "nan", "nan"]))
refused("without_distance", act=lambda ds: delattr(ds, "SpacingBetweenSlices"))
refused("with_two_distances", tags={"SpacingBetweenSlices": ("FD", [STEP + 0.5])})
refused("at_distance_0", act=lambda ds: setattr(ds, "SpacingBetweenSlices", 0))


def in_last_tile(ds) -> None:
    pixels = stored(ds).copy()
    pixels[-2, -3] = 9
    ds.PixelData = pixels.tobytes()


refused("with_a_value_in_an_empty_tile", act=in_last_tile)


def number_at(place: int, value: int):
    """Writes a number into the CSA header."""

    def act(ds) -> None:
        raw = bytearray(csa_of(ds))
        struct.pack_into("<i", raw, place, value)
        put_csa(ds, bytes(raw))

    return act


FIRST = 16  # where the first tag begins, 84 bytes before its first item
refused("whose_csa_header_is_cut_off", act=lambda ds: put_csa(ds, csa_of(ds)[:300]))
refused("whose_csa_header_is_empty", act=lambda ds: put_csa(ds, b""))
refused("whose_csa_header_is_zeros", act=lambda ds: put_csa(ds, bytes(4000)))
refused("with_two_thousand_million_tags", act=number_at(8, 2**31 - 1))
refused("with_a_tag_more_than_there_are", act=number_at(8, 7))
refused("with_an_item_of_two_gigabytes", act=number_at(FIRST + 84, 2**31 - 1))
refused("with_an_item_of_less_than_nothing", act=number_at(FIRST + 84, -20))
refused("with_a_million_items", act=number_at(FIRST + 76, 10**6))
refused("with_an_item_that_is_no_text", act=lambda ds: put_csa(ds, csa_of(ds).replace(b"7       ", b"\xff" * 8)))


@case(0, "BAD_HEADER")
def mosaic_without_its_own_uid(folder):
    ds = make_mosaic()
    save([ds], folder)
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes().replace(b"\x08\0\x18\0UI", b"\x08\0\x19\0UI"))


@case(3, offsets=(0.0, 50.0, 100.0))
def mosaics_of_three_times(folder):
    for time in (2, 0, 1):
        save([make_mosaic(offset=50.0 * time, time=time)], folder, "abc"[time])


@case(2, offsets=(0.0, 50.0))
def mosaics_of_two_b_values(folder):
    for time in range(2):
        save([make_mosaic(offset=50.0 * time, time=time, tags={"B_value": ("IS", [1000 * time])})], folder, "ab"[time])


@case()
def mosaic_twice(folder):
    for name in "ab":
        save([make_mosaic()], folder, name)


@case(0, "CONFLICT")
def mosaic_twice_with_other_pixels(folder):
    for name, offset in (("a", 0.0), ("b", 50.0)):
        ds = make_mosaic(offset=offset)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("the same")
        save([ds], folder, name)


@case(1, "MOSAIC")
def mosaic_of_two_times_one_of_them_stripped(folder):
    for time in range(2):
        save([make_mosaic(time=time, csa=time == 0)], folder, "ab"[time])


@case(0, "MOSAIC")
def mosaic_that_claims_to_be_ct(folder):
    ds = make_mosaic(slope=0.5)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    save([ds], folder)


@case()
def enhanced_that_was_a_mosaic(folder):
    """XA software takes mosaics apart and leaves the word behind."""
    ds = make_enhanced(make_series())
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    save([ds], folder)


def taken_apart(count=8, matrix=(SHAPE[0], 0, 0, SHAPE[1]), *, tiles=8, text=None, time=0, **options):
    """The slices of a mosaic as files of their own, which still call themselves one and keep its CSA header."""
    slices = make_series(count, modality="MR", offset=options.pop("offset", 0.0) + 50.0 * time, **options)
    tags = {"NumberOfImagesInMosaic": ("US", [tiles]), "SliceNormalVector": ("FD", [0.0, 0.0, 1.0])}
    tags |= {"AcquisitionMatrixText": ("SH", [text])} if text else {}
    for number, ds in enumerate(slices):
        ds.ImageType, ds.SpacingBetweenSlices = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], STEP
        if matrix is not None:
            ds.AcquisitionMatrix = list(matrix)
        ds.AcquisitionNumber, ds.InstanceNumber = time + 1, time * count + number + 1
        ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa_header(tags))
    return slices


def apart(name, volumes=1, codes="", *, expected=None, act=None, **options):
    def build(folder: Path) -> None:
        slices = taken_apart(**options)
        save(slices if act is None else act(slices), folder)

    build.__name__ = f"slices_of_a_mosaic_{name}"
    case(volumes, codes, **(expected or {}))(build)


def in_big_endian(slices):
    for ds in slices:
        ds.PixelData = stored(ds).astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    return slices


apart("plain")
apart("oblique", orientation=OBLIQUE)
apart("with_rows_of_phase", matrix=(0, SHAPE[1], SHAPE[0], 0))
apart("named_the_other_way_round", matrix=(SHAPE[1], 0, 0, SHAPE[0]))
apart("big_endian", act=in_big_endian)
apart("of_two_times", 2, expected={"offsets": (0.0, 50.0)}, act=lambda slices: slices + taken_apart(time=1))
apart("with_a_gap", 0, "MISSING_SLICE", act=lambda slices: slices[:3] + slices[4:])
apart("without_the_matrix", 0, "MOSAIC", matrix=None)
apart("with_a_matrix_of_one_side", 0, "MOSAIC", matrix=(SHAPE[0], 0, 0, 0))
apart("with_a_matrix_of_three_sides", 0, "MOSAIC", matrix=(SHAPE[0], SHAPE[1], SHAPE[1], 0))
apart("with_a_matrix_of_another_size", 0, "MOSAIC", matrix=(SHAPE[0] - 2, 0, 0, SHAPE[1]))
# Four tiles of half the sides would fit both matrix and header; that no tile is smaller than what was acquired gives it away.
apart("that_could_be_cut_again", 0, "MOSAIC", matrix=None, tiles=4, text=f"{SHAPE[0]}p*{SHAPE[1]}")
apart("that_could_be_cut_again_interpolated", 0, "MOSAIC", matrix=(SHAPE[0] - 1, 0, 0, SHAPE[1] - 1), tiles=4)
simple("with_the_matrix_of_a_tile", act=lambda ds: setattr(ds, "AcquisitionMatrix", [SHAPE[0], 0, 0, SHAPE[1]]))
simple("of_interpolated_tiles", act=lambda ds: setattr(ds, "AcquisitionMatrix", [SHAPE[0] // 2, 0, 0, SHAPE[1] // 2]))
simple("oversampled_along_phase", act=lambda ds: setattr(ds, "AcquisitionMatrix", [2 * SHAPE[0], 0, 0, SHAPE[1]]))
