"""DICOM cases: which slices belong together; multi-frame objects."""

import copy
from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.dicom_geometry import CORONAL
from faults.series import STEP, make_enhanced, make_series, make_slice, save, uid

GROUPING = Table("dicom")
case = GROUPING.case


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


SHUFFLED = [int(k) for k in np.random.default_rng(1).permutation(16)]


@case(2, offsets=(0.0, 50.0))
def enhanced_with_two_stacks(folder):
    slices = make_series() + make_series(origin=(-7, 4, 80), offset=50)
    save([make_enhanced(slices, order=SHUFFLED, content=[{"StackID": str(k // 8)} for k in range(16)])], folder)


@case(2, offsets=(0.0, 50.0))
def enhanced_with_two_stacks_of_other_orientation(folder):
    slices = make_series() + make_series(orientation=CORONAL, offset=50)
    save([make_enhanced(slices, order=SHUFFLED, orientations=True)], folder)


@case(2, offsets=(0.0, 50.0))
def enhanced_with_two_times(folder):
    slices = make_series() + make_series(offset=50)
    save([make_enhanced(slices, order=SHUFFLED, content=[{"TemporalPositionIndex": 1 + k // 8} for k in range(16)])], folder)


@case(2, offsets=(0.0, 50.0))
def enhanced_with_two_times_by_the_clock(folder):
    slices = make_series() + make_series(offset=50)
    content = [{"FrameAcquisitionDateTime": f"202601022359{k % 8:02d}.5" if k < 8 else f"202601030000{k % 8:02d}"} for k in range(16)]
    save([make_enhanced(slices, order=SHUFFLED, content=content)], folder)


@case(2, offsets=(0.0, 50.0))
def enhanced_with_two_echoes(folder):
    slices = make_series() + make_series(offset=50)
    save([make_enhanced(slices, order=SHUFFLED, content=[{"MREchoSequence": 5.0 + k // 8} for k in range(16)])], folder)


@case(2, offsets=(0.0, 50.0))
def enhanced_with_two_gradient_directions(folder):
    slices = make_series() + make_series(offset=50)
    save([make_enhanced(slices, order=SHUFFLED, content=[{"gradient": [k // 8, 1 - k // 8, 0]} for k in range(16)])], folder)


@case()
def enhanced_with_an_acquisition_a_frame(folder):
    save([make_enhanced(make_series(), content=[{"FrameAcquisitionNumber": k} for k in range(8)])], folder)


@case(1, "MISSING_SLICE")
def enhanced_with_a_hole_in_one_of_two_stacks(folder):
    slices = make_series() + make_series(origin=(-7, 4, 80))
    content = [{"StackID": str(k // 8)} for k in range(16)]
    save([make_enhanced(slices[:11] + slices[12:], content=content[:11] + content[12:])], folder)


@case()
def enhanced_twice(folder):
    for name in "ab":
        save([make_enhanced(make_series())], folder, name)


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
