"""DICOM cases: damage to the bytes of a series, of the kinds that random mutations found to be taken for a scan, or to end the run."""

from pathlib import Path

from faults.cases import Table
from faults.dicom_coding import compress
from faults.series import make_series, save
from pydicom.uid import JPEGLSLossless, RLELossless

DAMAGE = Table("dicom")
case = DAMAGE.case
JPEG_LS_SCAN = b"\xff\xda\0\x08\1\1\0\0\0\0"  # its header: ISO 14495-1 C.2.3
PADDING = b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0" + bytes(4)  # DataSetTrailingPadding


def damage(name, change, volumes=0, codes="", syntax=None):
    """A series whose middle slice is changed as bytes."""

    def build(folder: Path) -> None:
        slices = make_series(9)
        for item in slices if syntax else []:
            compress(item, syntax)
        path = save(slices, folder)[4]
        path.write_bytes(change(path.read_bytes()))

    build.__name__ = f"damage_{name}"
    case(volumes, codes)(build)


def pixels_at(data: bytes) -> int:
    return data.index(b"\xe0\x7f\x10\0OW\0\0") + 12


def put_in(data: bytes) -> bytes:
    return data[: pixels_at(data) + 50] + b"ab" + data[pixels_at(data) + 50 :]


def word(old: bytes, new: bytes):
    def change(data: bytes) -> bytes:
        assert data.count(old) == 1
        return data.replace(old, new)

    return change


damage("padding_element_behind_pixels", lambda data: data + PADDING, 1)
damage("zeros_behind_pixels", lambda data: data + bytes(512), 1)
damage("garbage_behind_pixels", lambda data: data + b"garbage", 0, "CORRUPT MISSING_SLICE")
damage("bytes_put_into_pixels", put_in, 0, "CORRUPT MISSING_SLICE")
damage("bytes_taken_out_of_pixels", lambda data: data[:-40] + data[-38:], 0, "TRUNCATED MISSING_SLICE")
damage("meta_information_broken_off", word(b"\x02\0\x03\0UI", b"\x59\0\x03\0UI"), 0, "CORRUPT MISSING_SLICE")
damage("value_representation_that_is_none", word(b"\x20\0\x13\0IS", b"\x20\0\x13\0MS"), 0, "CORRUPT MISSING_SLICE")
damage("rows_of_odd_length", word(b"\x28\0\x10\0US\x02\0", b"\x28\0\x10\0US\x03\0"), 0, "CORRUPT MISSING_SLICE")
damage("spacing_with_an_underscore", word(b"1.5\\1.25", b"1_5\\1.25"), 0, "PIXEL_SPACING MISSING_SLICE")
damage("point_transform_that_decoders_ignore", word(JPEG_LS_SCAN, JPEG_LS_SCAN[:-1] + b"\x80"), 0, "DECODER", JPEGLSLossless)
damage("loss_in_a_lossless_scan", word(JPEG_LS_SCAN, JPEG_LS_SCAN[:-3] + b"\1\0\0"), 0, "DECODER", JPEGLSLossless)
damage("bytes_behind_the_last_fragment", lambda data: data[:-8] + b"abcd" + data[-8:], 0, "DECODER", RLELossless)
