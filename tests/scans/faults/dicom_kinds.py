"""DICOM cases: objects that are no slices, files that are no objects, and odd but valid encodings."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
from faults.cases import Table
from faults.dicom_geometry import every, put
from faults.series import make_series, save
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

KINDS = Table("dicom")
case = KINDS.case
SECONDARY_CAPTURE, SEGMENTATION, XRAY = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.1.1"


def simple(name, volumes=1, codes="", *, options=None, act=None, **elements):
    def build(folder: Path) -> None:
        save(every(act or (lambda k, ds: put(**elements)(ds)))(make_series(**(options or {}))), folder)

    build.__name__ = name
    case(volumes, codes)(build)


simple("derived_secondary", ImageType=["DERIVED", "SECONDARY", "PROCESSED"])
simple("image_type_empty", ImageType="")
simple("conversion_type_of_a_ct", ConversionType="SYN")
simple("reformatted", ImageType=["DERIVED", "SECONDARY", "MPR"])
for word in ("MIP", "PROJECTION IMAGE", "LOCALIZER", "VRT", "SCREEN SAVE"):
    simple(f"image_type_{word}".replace(" ", "_").lower(), 0, "NOT_ORIGINAL", ImageType=["DERIVED", "SECONDARY", word])
simple("mosaic_of_single_slices", 0, "MOSAIC", ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], options={"modality": "MR"})
simple("secondary_capture", 0, "SOP_CLASS", SOPClassUID=SECONDARY_CAPTURE)
simple("radiograph", 0, "SOP_CLASS", SOPClassUID=XRAY)
simple("sop_class_absent", 0, "SOP_CLASS", act=lambda k, ds: delattr(ds, "SOPClassUID"))
simple("segmentation_is_a_companion", 0, SOPClassUID=SEGMENTATION)
simple("burned_in_text", 0, "BURNED_IN", BurnedInAnnotation="YES")
simple("series_uid_absent", 0, "BAD_HEADER", act=lambda k, ds: delattr(ds, "SeriesInstanceUID"))
simple("hostile_names", PatientID="$(rm -rf ..); '\"", PatientName="../../../etc/passwd")
simple("numbers_with_spaces", act=lambda k, ds: ds.__setattr__("PixelSpacing", ["1.5 ", " 1.25"]))


def rewritten(name, act, volumes=1, codes="", which=slice(None)):
    """Files of a good series, changed byte by byte: ``act`` maps the content of a file to another."""

    def build(folder: Path) -> None:
        for path in save(make_series(), folder)[which]:
            path.write_bytes(act(path.read_bytes()))

    build.__name__ = name
    case(volumes, codes)(build)


def element(tag: int, kind: bytes, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, kind, 0, len(value) if length is None else length) + value


def inserted(content: bytes):
    """Puts an element before the pixel data."""
    return lambda data: (lambda at: data[:at] + content + data[at:])(data.rindex(b"\xe0\x7f\x10\x00"))


def nested(depth: int, undefined: bool) -> bytes:
    content = b""
    for _ in range(depth):
        if undefined:
            item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + content + b"\xfe\xff\x0d\xe0\0\0\0\0"
            content = element(0x00400260, b"SQ", item + b"\xfe\xff\xdd\xe0\0\0\0\0", 0xFFFFFFFF)
        else:
            content = element(0x00400260, b"SQ", b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content)
    return content


def deflated(data: bytes) -> bytes:
    syntax = b"1.2.840.10008.1.2.1\0"
    at = data.index(b"\x08\x00\x08\x00CS")
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = data[:at].replace(b"UI\x14\0" + syntax, b"UI\x16\0" + DeflatedExplicitVRLittleEndian.encode())
    return head + squeezed.compress(data[at:]) + squeezed.flush()


rewritten("executable_preamble", lambda data: b"MZ" + bytes(126) + data[128:])
rewritten("no_preamble", lambda data: data[132:])
rewritten("sequences_of_undefined_length", inserted(nested(5, True)))
rewritten("sequences_300_deep", inserted(nested(300, False)))
rewritten("open_sequences_300_deep", inserted(nested(300, True)), 0, "CORRUPT")
rewritten("private_block_of_100_kilobytes", inserted(element(0x7FDF1010, b"UN", bytes(100_000))))
rewritten("element_twice", inserted(b"\x20\x00\x32\x00DS\x06\x001\\2\\3 "), 0, "CORRUPT")
rewritten("deflated", deflated, 0, "DEFLATED")
rewritten("deflated_bomb", lambda data: deflated(inserted(element(0x00091010, b"OB", bytes(100_000_000)))(data)), 0,
          "DEFLATED MISSING_SLICE", slice(3, 4))  # fmt: skip
rewritten("empty_file", lambda data: b"", 0, "EMPTY MISSING_SLICE", slice(3, 4))
rewritten("cut_in_the_header", lambda data: data[:300], 0, "MISSING_SLICE SOP_CLASS", slice(3, 4))
rewritten("cut_in_the_pixels", lambda data: data[:-100], 0, "MISSING_SLICE TRUNCATED", slice(3, 4))
rewritten("text_file", lambda data: b"Dear reader,\nthis is no image.\n" * 20, 0, "CORRUPT MISSING_SLICE", slice(3, 4))
rewritten("random_bytes", lambda data: np.random.default_rng(5).bytes(4000), 0, "CORRUPT MISSING_SLICE", slice(3, 4))


@case()
def junk_beside_the_series(folder):
    """What the inventory sorts out by its bytes is no case of the reader; a dataset of another kind is."""
    save(make_series(), folder)
    note = Dataset()
    note.SOPClassUID, note.SOPInstanceUID, note.Modality = SEGMENTATION, "1.2.3", "SEG"
    note.SegmentSequence = Sequence([Dataset()])
    note.file_meta = pydicom.dataset.FileMetaDataset()
    note.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    note.file_meta.MediaStorageSOPClassUID, note.file_meta.MediaStorageSOPInstanceUID = SEGMENTATION, "1.2.3"
    pydicom.dcmwrite(folder / "seg", note, enforce_file_format=True)
