"""DICOM cases: transfer syntaxes, damaged streams, and the units of PET."""

from pathlib import Path

import numpy as np
import pydicom
from faults.cases import Table
from faults.dicom_geometry import every, put
from faults.phantom import error, expected
from faults.series import STEP, make_series, make_slice, save, store, stored
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    MPEG4HP41,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

CODING = Table("dicom")
case = CODING.case


def syntax(name, uid, volumes=1, codes="", spoil=None, modality="CT", kind="uint16", used=None):
    def build(folder: Path) -> None:
        slices = make_series(modality=modality)
        for ds in slices:
            if kind == "int16":
                store(ds, stored(ds).astype(float) - 1024, kind="int16", used=used)
                ds.RescaleIntercept = 0
            compress(ds, uid)
            if spoil is not None:
                spoil(ds)
        save(slices, folder)

    build.__name__ = name
    case(volumes, codes)(build)


def compress(ds, uid) -> None:
    """Into a transfer syntax, with what encoders are there: pydicom's RLE, pyjpegls, Pillow's JPEG 2000."""
    if uid == JPEG2000Lossless:
        from io import BytesIO

        from PIL import Image

        stream = BytesIO()
        Image.fromarray(stored(ds)).save(stream, "JPEG2000", no_jp2=True)
        ds.PixelData = encapsulate([stream.getvalue()])
        ds.file_meta.TransferSyntaxUID = uid
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    elif uid in (RLELossless, JPEGLSLossless):
        ds.compress(uid, generate_instance_uid=False)
    else:
        ds.PixelData = encapsulate([ds.PixelData])
        ds.file_meta.TransferSyntaxUID = uid
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True


def flip(*places):
    def act(ds) -> None:
        data = bytearray(ds.PixelData)
        for place in places:
            data[place] ^= 0xFF
        ds.PixelData = bytes(data)

    return act


def halve(ds) -> None:
    frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame[: len(frame) // 2]])


syntax("rle", RLELossless)
syntax("rle_signed", RLELossless, kind="int16")
syntax("jpeg_ls", JPEGLSLossless)
syntax("jpeg_ls_signed", JPEGLSLossless, kind="int16")
syntax("jpeg_2000", JPEG2000Lossless)
syntax("rle_cut_off", RLELossless, 0, "DECODER", halve)
syntax("jpeg_ls_cut_off", JPEGLSLossless, 0, "DECODER", halve)
syntax("jpeg_2000_cut_off", JPEG2000Lossless, 0, "DECODER", halve)
syntax("jpeg_2000_of_other_size", JPEG2000Lossless, 0, "DECODER", put(Rows=10, Columns=12))
syntax("jpeg_ls_of_other_size", JPEGLSLossless, 0, "DECODER", put(Rows=10, Columns=12))
syntax("rle_with_broken_segments", RLELossless, 0, "DECODER", flip(16, 17, 21))
syntax("jpeg_lossless_that_is_none", JPEGLosslessSV1, 0, "DECODER" if get_decoder(JPEGLosslessSV1).is_available else "TRANSFER_SYNTAX")
syntax("mpeg4", MPEG4HP41, 0, "TRANSFER_SYNTAX")


@case()
def implicit(folder):
    save(every(lambda k, ds: put(TransferSyntaxUID=ImplicitVRLittleEndian)(ds.file_meta))(make_series()), folder)


@case()
def big_endian(folder):
    slices = make_series()
    for ds in slices:
        ds.PixelData = stored(ds).astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    save(slices, folder)


def uptake(name, check, *, drop=(), **elements):
    """A PET in Bq/ml of which all is known, but for what is dropped or changed."""

    def build(folder: Path) -> None:
        slices = [make_slice(k, k * STEP, modality="PT", slope=0.05) for k in range(8)]
        for ds in slices:
            tracer = Dataset()
            tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife, tracer.RadiopharmaceuticalStartTime = 370e6, 6586.2, "090000"
            values = {
                "Units": "BQML", "DecayCorrection": "START", "CorrectedImage": ["ATTN", "DECY"], "PatientWeight": 70,
                "SeriesDate": "20240102", "SeriesTime": "100000", "AcquisitionDate": "20240102", "AcquisitionTime": "100512",
                "RadiopharmaceuticalInformationSequence": [tracer],
            } | elements  # fmt: skip
            for word, value in values.items():
                if word not in drop:
                    setattr(ds, word, value)
        save(slices, folder)

    build.__name__ = name
    case(check=check, fair=error)(build)


def scaled_by(factor):
    def check(outcome) -> bool:
        volume = outcome.volumes[0]
        return bool(np.allclose(volume.voxels[0], expected(volume) * factor, rtol=1e-5, atol=0.04 * factor))

    return check


uptake("pet_becomes_suv", scaled_by(70e3 / (370e6 * 2 ** (-3600 / 6586.2))))
uptake("pet_corrected_to_injection", scaled_by(70e3 / 370e6), DecayCorrection="ADMIN")
for missing in ("PatientWeight", "DecayCorrection", "SeriesTime", "RadiopharmaceuticalInformationSequence"):
    uptake(f"pet_without_{missing}", scaled_by(1), drop=(missing,))
uptake("pet_without_decay_correction", scaled_by(1), DecayCorrection="NONE")
uptake("pet_in_suv_already", scaled_by(1), Units="GML")
uptake("pet_with_a_series_time_rewritten", scaled_by(1), SeriesTime="110000")
