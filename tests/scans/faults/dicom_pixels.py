"""DICOM cases: stored numbers, scaling, padding, compression, units."""

from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.dicom_geometry import every, put
from faults.phantom import error, expected
from faults.series import STEP, make_series, make_slice, save, store, stored
from pydicom.dataset import Dataset

PIXELS = Table("dicom")
case = PIXELS.case
MIDDLE = (slice(2, 6), slice(3, 7))


def simple(name, volumes=1, codes="", *, change, options=None, **expectation):
    def build(folder: Path) -> None:
        save(change(make_series(**(options or {}))), folder)

    build.__name__ = name
    case(volumes, codes, **expectation)(build)


def restored(values_of, **coding):
    """Stores every slice anew: ``values_of(stored)`` as numbers of another type."""
    return every(lambda k, ds: store(ds, values_of(stored(ds).astype(float)), **coding))


simple("signed", change=every(lambda k, ds: (store(ds, stored(ds) - 1024.0, kind="int16"), put(RescaleIntercept=0)(ds))))
simple("twelve_bits", change=restored(lambda v: v, used=12))
simple("mr_without_rescale", change=lambda s: s, options={"modality": "MR"})
simple("mr_of_32_bits", change=restored(lambda v: v, kind="uint32"), options={"modality": "MR"})
simple("numbers_beyond_int16", change=lambda s: s, options={"offset": 40000.0}, offsets=(40000.0,))
simple(
    "a_slope_a_slice", change=lambda s: [make_slice(k, k * STEP, modality="PT", slope=0.05 + 0.01 * k) for k in range(8)], tolerance=0.07
)
simple("fractional_slope", change=lambda s: s, options={"slope": 0.25}, tolerance=0.13)
simple("slope_2", change=lambda s: s, options={"slope": 2.0}, tolerance=1.01)
simple("negative_slope", change=lambda s: s, options={"slope": -1.0, "inter": 3000.0})
for wrong, slope in {"zero": 0, "no_number": "NaN", "infinite": "1e999"}.items():
    simple(f"slope_{wrong}", 0, "SCALING", change=every(lambda k, ds, slope=slope: put(RescaleSlope=slope)(ds)))
simple("slope_of_a_ct_absent", 0, "SCALING", change=every(lambda k, ds: delattr(ds, "RescaleSlope")))
simple("intercept_of_a_ct_absent", 0, "SCALING", change=every(lambda k, ds: delattr(ds, "RescaleIntercept")))
simple("slope_of_one_slice_absent", 0, "SCALING", change=lambda s: (delattr(s[3], "RescaleSlope"), s)[1])
simple("lookup_table_instead_of_a_slope", 0, "SCALING", change=every(lambda k, ds: put(ModalityLUTSequence=[Dataset()])(ds)))
simple("bits_stored_beyond_allocated", 0, "BAD_HEADER", change=every(lambda k, ds: put(BitsStored=20)(ds)))
simple("eight_bits_claimed_of_sixteen", 0, "CORRUPT", change=every(lambda k, ds: put(BitsAllocated=8, BitsStored=8, HighBit=7)(ds)))
simple("monochrome1", change=every(lambda k, ds: put(PhotometricInterpretation="MONOCHROME1")(ds)))
simple("monochrome1_mr", change=every(lambda k, ds: put(PhotometricInterpretation="MONOCHROME1")(ds)), options={"modality": "MR"})
simple("rgb", 0, "COLOUR", change=every(lambda k, ds: put(PhotometricInterpretation="RGB", SamplesPerPixel=3)(ds)))
simple("palette", 0, "COLOUR", change=every(lambda k, ds: put(PhotometricInterpretation="PALETTE COLOR")(ds)))
simple("pixels_cut_off", 0, "TRUNCATED", change=lambda s: (put(PixelData=s[3].PixelData[:-20])(s[3]), s)[1])
simple("pixels_too_many", 0, "CORRUPT", change=lambda s: (put(PixelData=s[3].PixelData + b"\1\2\3\4")(s[3]), s)[1])
simple("rows_lie", 0, "MISSING_SLICE TOO_LARGE", change=lambda s: (put(Rows=65535, Columns=65535)(s[3]), s)[1])
simple("rows_and_columns_of_all_lie", 0, "TRUNCATED", change=every(lambda k, ds: put(Rows=4000, Columns=4000)(ds)))


@case()
def garbage_in_bits_that_do_not_count(folder):
    slices = make_series()
    for number, ds in enumerate(slices):
        store(ds, stored(ds).astype(float), used=12)
        ds.PixelData = (stored(ds) | np.uint16((number + 1) << 12)).tobytes()
    save(slices, folder)


@case()
def signed_twelve_bits_not_extended(folder):
    slices = make_series()
    for ds in slices:
        numbers = (stored(ds).astype(int) - 1024) & 0x0FFF
        store(ds, numbers, kind="int16", used=12)
        ds.RescaleIntercept = 0
    save(slices, folder)


@case()
def numbers_in_the_high_bits(folder):
    slices = make_series()
    for ds in slices:
        store(ds, stored(ds).astype(int) << 4, used=12, high=15)
    save(slices, folder)


def padded(outcome) -> bool:
    """Padding holds the least value of the rest; all else is the field."""
    volume = outcome.volumes[0]
    values, truth = volume.voxels[0].transpose(1, 0, 2).astype(float), expected(volume).transpose(1, 0, 2)
    inside = np.ones(values.shape, bool)
    inside[MIDDLE] = False
    return bool(np.abs(values - truth)[inside].max() <= 0.51 and (values[~inside] == values[inside].min()).all())


def padding(name, number, *, kind="uint16", used=None, check=padded, modality="CT", **elements):
    def build(folder: Path) -> None:
        slices = make_series(modality=modality)
        for ds in slices:
            values = stored(ds).astype(float)
            if kind == "int16" and modality == "CT":
                values, ds.RescaleIntercept = values - 1024, 0
            store(ds, values, kind=kind, used=used)
            numbers = stored(ds).copy()
            numbers[MIDDLE] = number
            ds.PixelData = numbers.tobytes()
            for word, (representation, value) in elements.items():
                ds.add_new(word, representation, value)
        save(slices, folder)

    build.__name__ = name
    case(check=check, fair=lambda volume: error(volume, but_for=4 * 4 * 8))(build)


padding("padding_signed", -2000, kind="int16", PixelPaddingValue=("SS", -2000))
padding("padding_signed_but_written_unsigned", -2000, kind="int16", PixelPaddingValue=("US", 63536))
padding("padding_unsigned_but_written_signed", 63536, PixelPaddingValue=("SS", -2000))
padding("padding_outside_the_bits_that_count", 63536, used=12, PixelPaddingValue=("US", 63536))
padding("padding_is_a_range", 5, PixelPaddingValue=("US", 0), PixelPaddingRangeLimit=("US", 9))
padding("padding_is_a_range_downwards", 5, PixelPaddingValue=("US", 9), PixelPaddingRangeLimit=("US", 0))
padding("padding_of_an_mr", 0, modality="MR", PixelPaddingValue=("US", 0))
UNUSED = min(set(range(1400, 1600)) - {int(number) for ds in make_series() for number in stored(ds).ravel()})
padding("padding_inside_the_range_of_the_body", UNUSED, PixelPaddingValue=("US", UNUSED))
padding("padding_is_the_least_of_int16", -32768, kind="int16", PixelPaddingValue=("SS", -32768))


@case(
    check=lambda outcome: outcome.volumes[0].voxels.min() == -32768 and outcome.volumes[0].voxels.dtype == np.float32,
    fair=lambda volume: error(volume, but_for=8) if volume.voxels.min() == -32768 else np.inf,
)
def least_of_int16_without_padding(folder):
    slices = make_series()
    for ds in slices:
        numbers = stored(ds).astype(np.int16) - 1024
        numbers[0, 0] = -32768
        store(ds, numbers, kind="int16")
        ds.RescaleIntercept = 0
    save(slices, folder)


@case(0, "NOT_FINITE", fair=lambda volume: float(np.ptp(volume.voxels)))
def nothing_but_padding(folder):
    save(every(lambda k, ds: put(PixelData=bytes(240), PixelPaddingValue=0)(ds))(make_series()), folder)
