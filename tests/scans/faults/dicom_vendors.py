"""DICOM cases: what scanners and archives write without any fault, told from what vendors' documents and public sets show.

Several volumes in one series lie 50 apart in value.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.dicom_geometry import CORONAL, OBLIQUE, SAGITTAL, put
from faults.series import STEP, make_series, make_slice, save, uid
from pydicom.dataset import Dataset

VENDORS = Table("dicom")
case = VENDORS.case
PLACES = 8
Words = Callable[[int, int], dict]  # (number of the volume, number of the place) -> elements


def several(name, words: Words, *, volumes=2, codes="", modality="MR", number: Words | None = None, found=None, **options):
    """A series of several volumes at the same places; instance numbers run through one volume after another unless ``number`` says so."""
    number = number or (lambda volume, place: {"InstanceNumber": volume * PLACES + place + 1})

    def build(folder: Path) -> None:
        for volume in range(volumes):
            slices = make_series(PLACES, modality=modality, offset=50.0 * volume, **options)
            for place, ds in enumerate(slices):
                put(**number(volume, place), **words(volume, place))(ds)
            save(slices, folder, f"{'abcdefgh'[volume]}")

    build.__name__ = name
    found = volumes if found is None else found
    case(found, codes, offsets=tuple(50.0 * volume for volume in range(volumes)))(build)


def one(name, volumes=1, codes="", *, act=lambda place, ds: None, change=None, expected=None, **options):
    """A series of one volume."""

    def build(folder: Path) -> None:
        slices = make_series(**options)
        for place, ds in enumerate(slices):
            act(place, ds)
        save(change(slices) if change else slices, folder)

    build.__name__ = name
    case(volumes, codes, **(expected or {}))(build)


def place_by_place(count: int) -> Words:
    return lambda volume, place: {"InstanceNumber": place * count + volume + 1}


several("two_acquisitions_as_numbered", lambda v, p: {"AcquisitionNumber": v + 1})
several(
    "two_acquisitions_by_slice_location", lambda v, p: {"AcquisitionNumber": v + 1, "SliceLocation": p * STEP}, number=place_by_place(2)
)
several("echoes_place_by_place", lambda v, p: {"EchoNumbers": v + 1, "EchoTime": 4.6 * (v + 1)}, volumes=3, number=place_by_place(3))
several("diffusion_without_b_values", lambda v, p: {"AcquisitionTime": "101500", "AcquisitionNumber": 1}, volumes=4)
several(
    "diffusion_by_sequence_name",
    lambda v, p: {"SequenceName": ("*ep_b0", "*ep_b1000#1", "*ep_b1000#2", "*ep_b1000t")[v], "AcquisitionNumber": v + 1},
    volumes=4,
)
several(
    "diffusion_with_directions_and_trace",
    lambda v, p: (
        {"DiffusionBValue": 1000.0 if v else 0.0} | ({"DiffusionGradientOrientation": np.eye(3)[v - 1].tolist()} if 0 < v < 3 else {})
    ),
    volumes=4,
    number=place_by_place(4),
)
several("cine_by_trigger_time", lambda v, p: {"TriggerTime": 31.5 * v + 0.7 * p}, volumes=4, number=place_by_place(4))
several(
    "cine_with_a_time_a_breath_hold", lambda v, p: {"TriggerTime": 40 * v, "AcquisitionTime": f"10{p:02d}00", "AcquisitionNumber": p + 1},
    volumes=4, number=place_by_place(4),
)  # fmt: skip
several("gated_with_names", lambda v, p: {"TemporalPositionIdentifier": v + 1, "TriggerTime": 80 * v}, volumes=3, modality="CT")
several(
    "water_and_fat_in_two_phases", lambda v, p: {"ImageType": ["DERIVED", "PRIMARY", "DIXON", ("WATER", "FAT")[v % 2]],
                                                "AcquisitionTime": f"10{15 + v // 2}{p:02d}"}, volumes=4,
)  # fmt: skip
several(
    "four_contrasts_of_one_dixon", lambda v, p: {"ImageType": ["ORIGINAL", "PRIMARY", *2 * [("W", "F", "IP", "OP")[v]]]},
    volumes=4, number=place_by_place(4),
)  # fmt: skip
several("dynamic_pet", lambda v, p: {"AcquisitionTime": f"1{v}0000", "FrameReferenceTime": 60000 * v}, volumes=3, modality="PT")
several("perfusion_ct_by_acquisition_time", lambda v, p: {"AcquisitionTime": f"101500.{v:02d}", "AcquisitionNumber": 1}, modality="CT")
several("coils_apart", lambda v, p: {"AcquisitionTime": f"1015{p:02d}"}, volumes=3, number=place_by_place(3))
several("inversion_times", lambda v, p: {"InversionTime": 100 * (v + 1)}, volumes=3)
several("flip_angles", lambda v, p: {"FlipAngle": 2 + 16 * v})
several("phases_with_the_clock_of_a_day", lambda v, p: {"AcquisitionTime": f"1{v}1500.25", "ContentTime": "113000"}, volumes=3)


@case(2, offsets=(0.0, 50.0))
def two_acquisitions_that_overlap(folder):
    """Chest, then abdomen, in one series."""
    for acquisition, low in enumerate((0, 5)):
        slices = [make_slice(20 * acquisition + k, (low + k) * STEP, offset=50.0 * acquisition) for k in range(PLACES)]
        for ds in slices:
            ds.AcquisitionNumber = acquisition + 1
        save(slices, folder, "ab"[acquisition])


@case()
def two_beds_of_a_pet(folder):
    slices = make_series(modality="PT")
    for place, ds in enumerate(slices):
        ds.AcquisitionTime = "100000" if place < 4 else "100300"
    save(slices, folder)


@case(1, "SOP_CLASS")
def dose_report_beside_a_ct(folder):
    save(make_series(), folder)
    report = make_slice(0, 0.0, shape=(64, 64))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    del report.ImagePositionPatient, report.ImageOrientationPatient, report.PixelSpacing
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = uid("report")
    save([report], folder, "r")


@case(0, "TOO_FEW_SLICES")
def three_planes_without_the_word_localizer(folder):
    for number, orientation in enumerate(((1, 0, 0, 0, 1, 0), SAGITTAL, CORONAL)):
        save(make_series(3, orientation=orientation, step=9.0, modality="MR", offset=number), folder, "asc"[number])


def rounded(digits, word="ImagePositionPatient"):
    return lambda place, ds: setattr(ds, word, [f"{float(value):.{digits}f}" for value in getattr(ds, word)])


def within(millimetres):
    return {"tolerance": 0.51 + 8 * millimetres}


one("positions_of_two_digits", act=rounded(2), expected=within(0.01))
one("positions_of_two_digits_oblique", act=rounded(2), orientation=OBLIQUE, expected=within(0.02), modality="MR")
one("positions_of_one_digit", act=rounded(1), step=0.625, expected=within(0.1))
one("orientation_of_four_digits", act=rounded(4, "ImageOrientationPatient"), orientation=OBLIQUE, expected=within(0.01), modality="MR")
one("acquisition_number_on_some_slices", act=lambda p, ds: put(AcquisitionNumber=1)(ds) if p % 3 else None)
one("temporal_position_counts_slices", act=lambda p, ds: put(TemporalPositionIdentifier=p + 1)(ds), modality="MR")
one("echo_number_on_some_slices", act=lambda p, ds: put(EchoNumbers=1)(ds) if p < 5 else None, modality="MR")
one("last_slice_thicker", act=lambda p, ds: put(SliceThickness=5 if p == 7 else 2.5)(ds))
one("instance_numbers_begin_again", act=lambda p, ds: put(InstanceNumber=1 + p % 4)(ds))
one(
    "interleaved",
    act=lambda p, ds: put(InstanceNumber=1 + (p % 2) * 4 + p // 2, AcquisitionTime=f"1015{(p % 2) * 4 + p // 2:02d}")(ds),
    modality="MR",
)
one("two_packages", act=lambda p, ds: put(AcquisitionNumber=1 + p % 2, RepetitionTime=500 + p % 2)(ds), modality="MR")
one("echo_time_a_slice", act=lambda p, ds: put(EchoTime=4.6 + 0.001 * p, FlipAngle=90 - p)(ds), modality="MR")
one("without_ids_and_dates", act=lambda p, ds: [delattr(ds, word) for word in ("PatientID", "PatientName", "StudyInstanceUID")])
one("scaled_slice_by_slice", change=lambda s: [make_slice(k, k * STEP, modality="MR", slope=0.65 + 0.1 * k) for k in range(8)],
    expected={"tolerance": 0.7})  # fmt: skip
one("subtraction", act=lambda p, ds: put(ImageType=["DERIVED", "PRIMARY", "OTHER", "SUBTRACTION"])(ds), modality="MR")


def private_scale(place, ds) -> None:
    block = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x0E, "FL", 0.0123)
    block.add_new(0x0D, "FL", 0.0)


one("private_scale_beside_the_public_one", act=private_scale, modality="MR", slope=0.5, inter=0.0)
one("slope_on_some_slices_of_an_mr", 0, "SCALING", modality="MR", slope=0.5, inter=0.0,
    act=lambda p, ds: delattr(ds, "RescaleSlope") if p == 3 else None)  # fmt: skip


def overlay(place, ds) -> None:
    ds.add_new(0x60000010, "US", ds.Rows)
    ds.add_new(0x60000011, "US", ds.Columns)
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60003000, "OW", bytes(16))
    ds.VOILUTSequence = [Dataset()]


one("overlay_and_window_tables", act=overlay)
