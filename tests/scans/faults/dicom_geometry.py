"""DICOM cases: where slices lie, and which belong together."""

import copy
from pathlib import Path

import numpy as np

from faults.cases import Table
from faults.phantom import expected, turned
from faults.series import STEP, make_enhanced, make_series, make_slice, save, uid

GEOMETRY = Table("dicom")
case = GEOMETRY.case
SAGITTAL, CORONAL = (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)
OBLIQUE = tuple(turned(20, -13, 31)[:, :2].T.ravel())


def simple(name, volumes=1, codes="", *, spoil=None, change=None, expected=None, **options):
    """Adds the case of a series of which ``spoil`` changes one slice, or ``change`` returns other slices."""

    def build(folder: Path) -> None:
        slices = make_series(**options)
        if spoil is not None:
            spoil(slices[3])
        save(change(slices) if change is not None else slices, folder)

    build.__name__ = name
    case(volumes, codes, **(expected or {}))(build)


def every(act):
    def change(slices):
        for number, ds in enumerate(slices):
            act(number, ds)
        return slices

    return change


def put(**values):
    def act(ds):
        for word, value in values.items():
            setattr(ds, word, value)

    return act


def drop(word):
    return lambda ds: delattr(ds, word)


simple("axial")
simple("sagittal", orientation=SAGITTAL)
simple("coronal", orientation=CORONAL)
simple("oblique", orientation=OBLIQUE)
simple("head_first_prone", orientation=(-1, 0, 0, 0, -1, 0))
simple("descending", step=-STEP)
simple("anisotropic_pixels", spacing=(0.7, 2.1))
simple("four_slices", count=4)
simple("three_slices", 0, "TOO_FEW_SLICES", count=3)
simple("instance_numbers_shuffled", change=every(lambda k, ds: put(InstanceNumber=(k * 5) % 8)(ds)))
simple("instance_numbers_equal", change=every(lambda k, ds: put(InstanceNumber=1)(ds)))
simple("instance_numbers_absent", change=every(lambda k, ds: drop("InstanceNumber")(ds)))
simple("middle_slice_missing", 0, "MISSING_SLICE", change=lambda s: s[:4] + s[5:])
simple("two_slices_missing", 0, "MISSING_SLICE", count=12, change=lambda s: s[:4] + s[6:])
simple("end_slice_missing", change=lambda s: s[:-1])
simple("spacing_changes", 0, "VARIABLE_SPACING", change=lambda s: s[:4] + [make_slice(k, 4 * STEP + (k - 4) * 4.1) for k in range(4, 8)])
simple("nearly_missing", 0, "VARIABLE_SPACING", change=lambda s: s[:4] + [make_slice(k, k * STEP + 0.9) for k in range(4, 8)])
simple("position_on_one_slice_absent", 0, "NO_POSITION MISSING_SLICE", spoil=drop("ImagePositionPatient"))
simple("position_is_no_number", 0, "NO_POSITION MISSING_SLICE", spoil=put(ImagePositionPatient=[1e30, 0, 0]))
simple("orientation_absent", 0, "NO_POSITION", change=every(lambda k, ds: drop("ImageOrientationPatient")(ds)))
simple("orientation_not_unit", 0, "NO_POSITION", change=every(lambda k, ds: put(ImageOrientationPatient=[1.1, 0, 0, 0, 1, 0])(ds)))
simple(
    "orientation_not_orthogonal", 0, "NO_POSITION", change=every(lambda k, ds: put(ImageOrientationPatient=[1, 0, 0, 0.1, 0.995, 0])(ds))
)
simple("one_slice_turned", 0, "MISSING_SLICE TOO_FEW_SLICES", spoil=put(ImageOrientationPatient=[0.9998, 0.02, 0, -0.02, 0.9998, 0]))
simple("orientation_rounded_differently", spoil=put(ImageOrientationPatient=[1, 0.00001, 0, -0.00001, 1, 0]))
simple("pixel_spacing_zero", 0, "PIXEL_SPACING", change=every(lambda k, ds: put(PixelSpacing=[0, 0])(ds)))
simple("pixel_spacing_negative", 0, "PIXEL_SPACING", change=every(lambda k, ds: put(PixelSpacing=[-1.5, 1.25])(ds)))
simple("pixel_spacing_absent", 0, "PIXEL_SPACING", change=every(lambda k, ds: drop("PixelSpacing")(ds)))
simple("pixel_spacing_one_value", 0, "PIXEL_SPACING", change=every(lambda k, ds: put(PixelSpacing=1.5)(ds)))
simple("pixel_spacing_of_one_slice", 0, "MIXED_SHAPE", spoil=put(PixelSpacing=[1.5, 1.3]))
simple("acquisition_number_steps", change=every(lambda k, ds: put(AcquisitionNumber=k // 2)(ds)))
simple("contrast_ends_in_another_image_type", change=every(lambda k, ds: put(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", f"P{k % 2}"])(ds)))
simple("one_slice_is_derived", 0, "MISSING_SLICE TOO_FEW_SLICES", spoil=put(ImageType=["DERIVED", "SECONDARY", "AXIAL"]))


def jitter(size):
    return lambda slices: [make_slice(k, k * STEP + size * (-1) ** k) for k in range(len(slices))]


simple("jitter_of_2_hundredths", change=jitter(0.02), expected={"tolerance": 0.51 + 7 * 0.03})
simple("jitter_of_5_hundredths", change=jitter(0.05), expected={"tolerance": 0.51 + 7 * 0.065})
simple("jitter_of_half_a_millimetre", 0, "VARIABLE_SPACING", change=jitter(0.5))
simple("sideways_jitter", 0, "SHIFTED_SLICES", change=lambda s: [make_slice(k, k * STEP, shift=(0.4 * (k % 2), 0)) for k in range(8)])
simple("two_slices_a_micrometre_apart", 0, "DUPLICATE_POSITION", change=lambda s: [*s, make_slice(90, 3 * STEP + 4e-4)])


def tilted(angle, kind, axis=1):
    """Gantry turned by an angle: slices go along z, their planes do not."""
    turn = turned(angle, 0, 0) if axis == 1 else turned(0, angle, 0)
    orientation = turn[:, :2].T.ravel()

    def check(outcome) -> bool:
        volume = outcome.volumes[0]
        truth, values = expected(volume), volume.voxels[0]
        inside = values > values.min()
        return bool(np.abs(values - truth)[inside].max() <= 0.6 and inside.sum() >= 0.85 * 12 * 10 * 8)

    def build(folder: Path) -> None:
        sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
        shift = (0.0, STEP * sine) if axis == 1 else (-STEP * sine, 0.0)
        slices = [make_slice(k, k * STEP * cosine, orientation, shift=(shift[0] * k, shift[1] * k)) for k in range(8)]
        if kind == "int16":
            for ds in slices:
                values = np.frombuffer(ds.PixelData, np.uint16).astype(np.int16) - 1024
                ds.PixelData, ds.PixelRepresentation, ds.RescaleIntercept = values.tobytes(), 1, 0
        save(slices, folder)

    build.__name__ = f"tilt_{angle}_degrees_{kind}" + ("" if axis == 1 else "_other_axis")
    case(1, check=check)(build)


for angle in (1, 15, 30, -14):
    for kind in ("uint16", "int16"):
        tilted(angle, kind)
tilted(12, "uint16", axis=2)


@case(0, "GANTRY_TILT")
def sheared_by_60_degrees(folder):
    save([make_slice(k, k * STEP, shift=(0, 1.8 * STEP * k)) for k in range(8)], folder)


@case()
def same_file_twice(folder):
    slices = make_series()
    save(slices, folder)
    save(slices[3:4], folder, "copy")


@case(0, "CONFLICT")
def same_image_twice_with_other_pixels(folder):
    slices = make_series()
    save(slices, folder)
    slices[3].PixelData = bytes(len(slices[3].PixelData))
    save(slices[3:4], folder, "copy")


@case(0, "DUPLICATE_POSITION")
def one_place_twice_under_other_names(folder):
    slices = make_series()
    save(slices, folder)
    slices[3].SOPInstanceUID = slices[3].file_meta.MediaStorageSOPInstanceUID = uid("other")
    save(slices[3:4], folder, "copy")


@case(0, "DUPLICATE_POSITION")
def whole_series_twice_under_other_names(folder):
    slices = make_series()
    save(slices, folder)
    for number, ds in enumerate(slices):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("other", number)
    save(slices, folder, "copy")


@case(2, offsets=(0.0, 50.0))
def two_series_in_one_folder(folder):
    save(make_series(), folder)
    save(make_series(series="B", offset=50), folder, "b")


def apart(name, codes="", volumes=2, **words):
    """Two volumes at the same places in one series, told apart by elements: a (first, second) value each."""

    def build(folder: Path) -> None:
        for time in range(2):
            slices = make_series(modality="MR", offset=50 * time)
            for number, ds in enumerate(slices):
                for word, values in words.items():
                    value = values[time](number) if callable(values[time]) else values[time]
                    setattr(ds, word, copy.copy(value))
            save(slices, folder, "ab"[time])

    build.__name__ = name
    case(volumes, codes, offsets=(0.0, 50.0))(build)


apart("two_acquisitions", AcquisitionNumber=(1, 2))
apart("two_echoes", EchoTime=(4.6, 9.2))
apart("two_echo_numbers", EchoNumbers=(1, 2))
apart("two_time_points_by_name", TemporalPositionIdentifier=(1, 2))
apart("two_b_values", DiffusionBValue=(0.0, 1000.0))
apart("two_gradient_directions", DiffusionGradientOrientation=([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
apart("water_and_fat", ImageType=(["DERIVED", "PRIMARY", "M", "WATER"], ["DERIVED", "PRIMARY", "M", "FAT"]))
apart("magnitude_and_phase", ImageType=(["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]))
apart("times_one_after_the_other", InstanceNumber=(lambda k: k + 1, lambda k: k + 9))
apart("times_place_by_place", InstanceNumber=(lambda k: 2 * k + 1, lambda k: 2 * k + 2))
apart("times_by_trigger", InstanceNumber=(1, 1), TriggerTime=(0, 400))
apart("times_by_acquisition_time", InstanceNumber=(1, 1), AcquisitionTime=(lambda k: f"1030{k:02d}.5", lambda k: f"1031{k:02d}"))
apart("times_without_a_clock", "DUPLICATE_POSITION", 0, InstanceNumber=(1, 1))
apart("times_in_no_blocks", "DUPLICATE_POSITION", 0, InstanceNumber=(lambda k: k + 1, lambda k: 9 + k if k < 5 else k - 4))
apart(
    "clocks_that_disagree", "DUPLICATE_POSITION", 0,
    InstanceNumber=(lambda k: k + 1, lambda k: k + 9), TriggerTime=(lambda k: 400 * (k % 2), lambda k: 400 * (1 - k % 2)),
)  # fmt: skip


@case(2, offsets=(0.0, 50.0))
def two_acquisitions_at_two_stations(folder):
    for station in range(2):
        slices = make_series(offset=50 * station, origin=(-7, 4, 11 + 70 * station))
        for ds in slices:
            ds.AcquisitionNumber = station
        save(slices, folder, "ab"[station])


@case(1, "NOT_ORIGINAL")
def localizers_inside_the_series(folder):
    save(make_series(), folder)
    scouts = make_series(2, orientation=CORONAL, offset=3)
    for ds in scouts:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scouts, folder, "l")


@case(0, "MISSING_SLICE TOO_FEW_SLICES")
def other_rows_in_one_slice(folder):
    slices = make_series()
    slices[3] = make_slice(3, 3 * STEP, shape=(14, 10))
    save(slices, folder)


@case()
def enhanced_in_order(folder):
    save([make_enhanced(make_series())], folder)


@case()
def enhanced_with_permuted_frames(folder):
    save([make_enhanced(make_series(), order=[5, 2, 7, 0, 1, 6, 3, 4])], folder)


@case(tolerance=0.7)
def enhanced_with_a_slope_a_frame(folder):
    slices = [make_slice(k, k * STEP, slope=0.5 + 0.1 * k) for k in range(8)]
    save([make_enhanced(slices, order=[5, 2, 7, 0, 1, 6, 3, 4], per_frame_scaling=True)], folder)


@case(0, "MULTI_FRAME")
def enhanced_with_two_stacks(folder):
    slices = make_series() + make_series(origin=(-7, 4, 80))
    save([make_enhanced(slices, content=[{"StackID": str(k // 8)} for k in range(16)])], folder)


@case(0, "MULTI_FRAME")
def enhanced_with_two_times(folder):
    slices = make_series() + make_series(offset=50)
    save([make_enhanced(slices, content=[{"TemporalPositionIndex": 1 + k // 8} for k in range(16)])], folder)


@case(0, "DUPLICATE_POSITION")
def enhanced_with_two_nameless_times(folder):
    save([make_enhanced(make_series() + make_series(offset=50))], folder)


@case(0, "MISSING_SLICE")
def enhanced_without_a_middle_frame(folder):
    slices = make_series()
    save([make_enhanced(slices[:4] + slices[5:])], folder)


@case(0, "MULTI_FRAME")
def enhanced_without_functional_groups(folder):
    ds = make_enhanced(make_series())
    del ds.PerFrameFunctionalGroupsSequence
    save([ds], folder)
