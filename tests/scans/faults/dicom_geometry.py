"""DICOM cases: where slices lie, and which belong together."""

from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.phantom import error, expected, turned
from faults.series import STEP, make_series, make_slice, save

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
simple("one_slice_alone", 0, "TOO_FEW_SLICES", count=1)
simple("end_slice_missing_of_a_stated_number", change=lambda s: every(lambda k, ds: put(ImagesInAcquisition=8)(ds))(s)[:-1])
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


def within_a_tenth_of_a_millimetre(volume) -> float:
    return max(0.0, error(volume) - 7 * 0.1)


for hundredths, tolerance in ((2, 0.51 + 7 * 0.03), (5, 0.51 + 7 * 0.065)):
    simple(
        f"jitter_of_{hundredths}_hundredths",
        change=jitter(hundredths / 100),
        expected={"tolerance": tolerance, "fair": within_a_tenth_of_a_millimetre},
    )
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
    pixels = 12 * 10 * 8

    def fair(volume) -> float:
        """Of the best 85 % of pixels, that which a tenth of a millimetre within the plane does not explain."""
        return max(0.0, error(volume, but_for=volume.voxels.size - int(0.85 * pixels)) - 0.1 * 3)

    case(1, check=check, fair=fair)(build)


for angle in (1, 15, 30, -14):
    for kind in ("uint16", "int16"):
        tilted(angle, kind)
tilted(12, "uint16", axis=2)


@case(0, "GANTRY_TILT")
def sheared_by_60_degrees(folder):
    save([make_slice(k, k * STEP, shift=(0, 1.8 * STEP * k)) for k in range(8)], folder)
