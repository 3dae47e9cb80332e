"""DICOM cases: compressed streams whose numbers are signed, wider than the header says, split, or damaged; lossless JPEG."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.dicom_coding import flip, halve
from faults.jpeg_lossless import encode
from faults.phantom import error
from faults.series import make_series, save, store, stored
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

STREAMS = Table("dicom")
SHAPE = (40, 36)  # the encoders halve an image five times


def stream(name, encoder, uid, volumes=1, codes="", *, kind="uint16", used=None, spoil=None, fragments=1, shape=SHAPE, **expectation):
    """The case of a series whose slices ``encoder`` compressed; signed numbers hold the values themselves."""

    def build(folder: Path) -> None:
        slices = make_series(shape=shape)
        for ds in slices:
            values = stored(ds).astype(float)
            if kind == "int16":
                values, ds.RescaleIntercept = values - 1024, 0
            store(ds, values, kind=kind, used=used)
            encoder(ds, uid, fragments)
            if spoil is not None:
                spoil(ds)
        save(slices, folder)

    build.__name__ = name
    STREAMS.case(volumes, codes, **expectation)(build)


def hold(ds, uid, content: bytes, fragments: int = 1) -> None:
    ds.PixelData = encapsulate([content], fragments_per_frame=fragments)
    ds.file_meta.TransferSyntaxUID = uid
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True


def by_pydicom(ds, uid, fragments=1, **settings) -> None:
    ds.compress(uid, generate_instance_uid=False, **settings)


def lossless_jpeg(ds, uid, fragments=1) -> None:
    hold(ds, uid, encode(stored(ds), ds.BitsStored), fragments)


def openjpeg(ds, uid, fragments=1, numbers=None) -> None:
    from openjpeg.utils import encode_array

    numbers = stored(ds) if numbers is None else numbers
    content = encode_array(numbers.copy(), bits_stored=ds.BitsStored, photometric_interpretation=2, codec_format=0)
    hold(ds, uid, bytes(content), fragments)


def openjph(ds, uid, fragments=1) -> None:
    import imagecodecs

    hold(ds, uid, imagecodecs.htj2k_encode(stored(ds), reversible=True), fragments)


def as_other_sign(ds, uid, fragments=1) -> None:
    """A stream whose sign is not the header's."""
    numbers = stored(ds)
    openjpeg(ds, uid, fragments, numbers.view("i2" if numbers.dtype.kind == "u" else "u2"))


def wider_than_stated(ds, uid, fragments=1) -> None:
    """A stream of 16 bits in an object of 12, with numbers beyond them."""
    numbers = stored(ds).copy()
    numbers[3, 4] = 0x7FFF
    ds.BitsStored, ds.HighBit = 16, 15
    openjpeg(ds, uid, fragments, numbers)
    ds.BitsStored, ds.HighBit = 12, 11


def not_extended(ds) -> None:
    numbers = stored(ds).view(np.uint16) & 0x0FFF
    ds.PixelData = numbers.astype("<u2").tobytes()


def filled_above(ds) -> None:
    ds.PixelData = (stored(ds).view(np.uint16) | np.uint16(0xA000)).astype("<u2").tobytes()


def after(change, encoder):
    def act(ds, uid, fragments=1) -> None:
        change(ds)
        encoder(ds, uid, fragments)

    return act


def unended(ds) -> None:
    content = next(generate_frames(ds.PixelData, number_of_frames=1)).rstrip(b"\0")
    ds.PixelData = encapsulate([content[:-2]])


stream("rle_twelve_bits_not_extended", after(not_extended, by_pydicom), RLELossless, kind="int16", used=12)
stream("rle_with_garbage_above_its_bits", after(filled_above, by_pydicom), RLELossless, used=12)
stream("jpeg_ls_signed_twelve_bits", by_pydicom, JPEGLSLossless, kind="int16", used=12)
stream("jpeg_ls_near_lossless", lambda ds, uid, _: by_pydicom(ds, uid, jls_error=2), JPEGLSNearLossless, tolerance=2.51)

HERE = find_spec("gdcm") is not None  # decoded where GDCM is, else refused by name
for uid, word in ((JPEGLosslessSV1, ""), (JPEGLossless, "_process_14")):
    right = {"volumes": int(HERE), "codes": "" if HERE else "TRANSFER_SYNTAX"}
    stream(f"jpeg_lossless{word}", lossless_jpeg, uid, **right)
    stream(f"jpeg_lossless{word}_signed", lossless_jpeg, uid, kind="int16", **right)
    stream(f"jpeg_lossless{word}_signed_twelve_bits", lossless_jpeg, uid, kind="int16", used=12, **right)
stream("jpeg_lossless_in_fragments", lossless_jpeg, JPEGLosslessSV1, fragments=3, **right)
refused = "DECODER" if HERE else "TRANSFER_SYNTAX"
stream("jpeg_lossless_cut_off", lossless_jpeg, JPEGLosslessSV1, 0, refused, spoil=halve)
stream("jpeg_lossless_without_its_end", lossless_jpeg, JPEGLosslessSV1, 0, refused, spoil=unended)
stream("jpeg_lossless_with_a_broken_table", lossless_jpeg, JPEGLosslessSV1, 0, refused, spoil=flip(44, 45))

OPENJPEG, OPENJPH = ("openjpeg",), ("openjpeg", "imagecodecs")
stream("jpeg_2000_signed", openjpeg, JPEG2000Lossless, kind="int16", needs=OPENJPEG)
stream("jpeg_2000_twelve_bits", openjpeg, JPEG2000Lossless, used=12, needs=OPENJPEG)
stream("jpeg_2000_signed_twelve_bits", openjpeg, JPEG2000Lossless, kind="int16", used=12, needs=OPENJPEG)
stream("jpeg_2000_in_fragments", openjpeg, JPEG2000Lossless, fragments=4, needs=OPENJPEG)
stream("jpeg_2000_without_its_end", openjpeg, JPEG2000Lossless, 0, "DECODER", spoil=unended, needs=OPENJPEG)
stream("jpeg_2000_signed_header_unsigned_stream", as_other_sign, JPEG2000Lossless, kind="int16", needs=OPENJPEG)
stream("jpeg_2000_unsigned_header_signed_stream", as_other_sign, JPEG2000Lossless, needs=OPENJPEG)
stream("jpeg_2000_wider_than_its_header", wider_than_stated, JPEG2000Lossless, 0, "BAD_HEADER", used=12, needs=OPENJPEG,
       fair=lambda volume: error(volume, but_for=8))  # fmt: skip
stream("high_throughput_jpeg_2000", openjph, HTJ2KLossless, needs=OPENJPH)
stream("high_throughput_jpeg_2000_signed", openjph, HTJ2KLossless, kind="int16", needs=OPENJPH)
stream("high_throughput_jpeg_2000_cut_off", openjph, HTJ2KLossless, 0, "DECODER", spoil=halve, needs=OPENJPH)
refused = "DECODER" if find_spec("openjpeg") else "TRANSFER_SYNTAX"
stream("high_throughput_jpeg_2000_that_is_none", lambda ds, uid, _: hold(ds, uid, ds.PixelData), HTJ2KLossless, 0, refused)


@STREAMS.case(0, "BAD_HEADER")
def big_endian_numbers_in_the_high_bits(folder):
    slices = make_series()
    for ds in slices:
        store(ds, stored(ds).astype(int) << 4, used=12, high=15)
        ds.PixelData = stored(ds).astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    save(slices, folder)
