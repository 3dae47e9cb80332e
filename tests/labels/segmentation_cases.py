# ruff: noqa: RUF005 (arrays are added, not joined)
"""Fault cases of DICOM segmentations."""

import numpy as np
from drawn import (
    CENTRE,
    COUNT,
    ORIGIN,
    SHAPE,
    SPACING,
    STEP,
    ball,
    box,
    described,
    fill,
    image,
    make_segmentation,
)  # fmt: skip
from faults.phantom import turned
from faults.series import make_enhanced, uid
from label_cases import Built, Table, changed
from pydicom.dataset import Dataset

CASES = Table()
case = CASES.case
LIVER = (1, "liver")
SMALL = ball(6.0, CENTRE + [3.0, 2.0, 1.0])
OBLIQUE = tuple(turned(12, -9, 20)[:, :2].T.ravel())
AXIAL = np.array([1.0, 0, 0, 0, 1, 0])


def plain(spoil=None, slices=None, shapes=None, **options):
    """A liver on the image's own grid; what the case spoils."""
    rest = {name: options.pop(name) for name in ("classes", "rule", "near_mm", "truth") if name in options}
    slices = image() if slices is None else slices
    ds = make_segmentation(slices, shapes or {LIVER: ball()}, **options)
    if spoil is not None:
        spoil(ds)
    return Built(slices, [ds], **rest)


def own_grid(origin, orientation, spacing, shape, step, count):
    """Planes of a grid of its own."""
    orientation = np.asarray(orientation, float)
    normal = np.cross(orientation[:3], orientation[3:])
    return [(np.asarray(origin, float) + normal * step * number, orientation, spacing, shape) for number in range(count)]


def frames(ds):
    return ds.PerFrameFunctionalGroupsSequence


@case()
def segmentation_on_the_images_grid():
    return plain()


@case()
def frames_permuted():
    return plain(order=lambda count: np.random.default_rng(3).permutation(count), empty=True)


@case()
def frames_of_two_segments_permuted():
    two = {LIVER: box(ORIGIN + 2, CENTRE), (2, "spleen"): box(CENTRE, CENTRE + 8)}
    truth = {1: two[LIVER], 2: two[2, "spleen"]}
    classes = {1: "liver", 2: "spleen"}
    return plain(shapes=two, truth=truth, classes=classes, order=lambda count: np.random.default_rng(4).permutation(count))


@case()
def empty_frames_written():
    return plain(empty=True)


@case()
def no_citations_of_frames():
    return plain(cites=False)


@case()
def slices_without_step():
    return plain(thick=0)


@case()
def images_rewritten_under_the_same_series():
    slices = image()
    built = plain(slices=slices)
    for item in slices:
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = f"{item.SOPInstanceUID[:-9]}.77"
        item.SOPInstanceUID += str(int(item.InstanceNumber))
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
    return built


@case()
def subset_of_the_slices():
    slices = image()
    shape = box(ORIGIN + [4, 4, 3 * STEP - 1], ORIGIN + [14, 20, 7 * STEP - 1])
    ds = make_segmentation(slices[3:7], {LIVER: shape})
    return Built(slices, [ds], truth={1: shape})


@case()
def slices_in_descending_order():
    return plain(slices=image()[::-1])


@case()
def oblique_image():
    turn = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    centre = ORIGIN + np.array(OBLIQUE[:3]) * 13 + np.array(OBLIQUE[3:]) * 17.5 + turn * 14
    return plain(slices=image(orientation=OBLIQUE), shapes={LIVER: ball(9.0, centre)}, truth={1: ball(9.0, centre)}, near_mm=1e-3)


@case()
def tilted_gantry():
    """The image is put upright; a voxel between two pixels takes the nearer."""
    slices = [image(count=number + 1, shift=(0.0, 0.6 * number))[number] for number in range(COUNT)]
    return plain(slices=slices, near_mm=0.8)


@case()
def coarser_grid():
    planes = own_grid(ORIGIN + [0.6, 0.7, 1.2], AXIAL, (3.0, 2.5), (13, 11), 5.0, 6)
    return plain(planes=planes, near_mm=3.2)


@case()
def finer_grid():
    planes = own_grid(ORIGIN - [0.3, 0.35, 0.6], AXIAL, (0.75, 0.625), (52, 44), 1.25, 24)
    return plain(planes=planes, near_mm=0.85)


@case()
def sagittal_grid():
    planes = own_grid(ORIGIN + [26, 0, 26], [0, 1, 0, 0, 0, -1], (1.3, 1.1), (24, 36), 1.2, 23)
    return plain(planes=planes, near_mm=1.1)


@case()
def oblique_grid():
    """Turned against the image about all three axes."""
    turn = turned(30, 20, -25)
    corner = CENTRE - turn @ np.array([15.0, 15.0, 15.0])
    planes = own_grid(corner, turn[:, :2].T.ravel(), (1.0, 1.0), (31, 31), 1.0, 31)
    return plain(planes=planes, near_mm=0.9)


@case()
def cropped_grid():
    """Whole pixels of the image, but fewer of them."""
    planes = own_grid(ORIGIN + [2 * SPACING[1], 3 * SPACING[0], STEP], AXIAL, SPACING, (19, 18), STEP, 10)
    return plain(planes=planes)


@case()
def stored_from_the_other_side():
    """Rows that run from left to right, with the pixels to match."""
    last = ORIGIN + [(SHAPE[1] - 1) * SPACING[1], 0, (COUNT - 1) * STEP]
    return plain(planes=own_grid(last, [-1, 0, 0, 0, 1, 0], SPACING, SHAPE, STEP, COUNT)[::-1])


@case()
def gap_in_the_numbers_of_segments():
    two = {(1, "liver"): box(ORIGIN + 2, CENTRE), (7, "spleen"): box(CENTRE, CENTRE + 8)}
    return plain(shapes=two, truth={1: two[1, "liver"], 2: two[7, "spleen"]}, classes={1: "Liver", 2: "SPLEEN"})


@case()
def overlap_settled_by_the_task():
    shapes = {LIVER: ball(), (2, "tumour"): SMALL}
    return plain(shapes=shapes, truth={1: ball(), 2: SMALL}, classes={1: "liver", 2: "tumour"}, rule={"on_top": (2,)})


@case()
def two_segments_of_one_class():
    shapes = {(1, "liver"): box(ORIGIN + 2, CENTRE), (2, "liver left"): box(CENTRE - 1, CENTRE + 8)}
    truth = {1: lambda points: np.maximum(shapes[1, "liver"](points), shapes[2, "liver left"](points))}
    return plain(shapes=shapes, truth=truth, classes={1: "liver*"})


@case()
def segment_claimed_by_its_code():
    return plain(classes={1: "code:SCT:123"})


@case()
def empty_segment_that_may_be_absent():
    nothing = ball(1.0, CENTRE + 1000)
    return plain(shapes={LIVER: ball(), (2, "tumour"): nothing}, classes={1: "liver", 2: "tumour"}, rule={"may_be_absent": (2,)})


@case()
def fractional_with_a_threshold():
    return plain(kind="FRACTIONAL", rule={"threshold": 0.5}, empty=True, near_mm=0.02)


@case()
def label_map():
    shapes = {LIVER: ball(), (4, "tumour"): SMALL}
    classes = {1: "liver", 2: "tumour"}
    return plain(kind="LABELMAP", shapes=shapes, truth={1: ball(), 2: SMALL}, classes=classes)


@case()
def enhanced_image():
    """The segmentation cites frames of one object."""
    slices = image()
    whole = make_enhanced(slices, order=np.random.default_rng(5).permutation(COUNT).tolist())
    order = [int(own.FrameContentSequence[0].InStackPositionNumber) - 1 for own in whole.PerFrameFunctionalGroupsSequence]
    ds = make_segmentation([slices[place] for place in order], {LIVER: ball()}, enhanced=whole)
    return Built([whole], [ds])


@case("LABELS_MISPLACED")
def enhanced_image_cited_at_the_wrong_frames():
    slices = image()
    whole = make_enhanced(slices, order=list(range(COUNT))[::-1])
    return Built([whole], [make_segmentation(slices, {LIVER: ball()}, enhanced=whole)])


@case("LABELS_FRAME")
def another_frame_of_reference():
    return plain(lambda ds: changed(ds, FrameOfReferenceUID=uid("another frame")))


@case("LABELS_FRAME")
def no_frame_of_reference():
    return plain(lambda ds: changed(ds, FrameOfReferenceUID=None))


@case("LABELS_PATIENT")
def another_patient():
    return plain(lambda ds: changed(ds, PatientID="P2"))


@case("LABELS_REPEATED")
def a_frame_twice():
    def twice(ds):
        frames(ds).append(frames(ds)[2])
        size = ds.Rows * ds.Columns
        bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")[: ds.NumberOfFrames * size].reshape(-1, *SHAPE)
        ds.NumberOfFrames += 1
        fill(ds, np.concatenate([bits, bits[2:3]]).astype(bool))

    return plain(twice)


@case("LABELS_ABSENT")
def empty_segment():
    return plain(shapes={LIVER: ball(), (2, "tumour"): ball(1.0, CENTRE + 1000)}, classes={1: "liver", 2: "tumour"})


@case("LABELS_ABSENT")
def class_without_a_segment():
    return plain(classes={1: "liver", 2: "tumour"})


@case("LABELS_OVERLAP")
def overlap():
    return plain(shapes={LIVER: ball(), (2, "tumour"): SMALL}, classes={1: "liver", 2: "tumour"})


@case("LABELS_SEGMENTS")
def segment_of_another_name():
    return plain(shapes={LIVER: ball(), (2, "Liver of Jane Doe"): SMALL})


@case("LABELS_SEGMENTS")
def segment_claimed_twice():
    return plain(classes={1: "liver", 2: "l*"})


@case("LABELS_AMBIGUOUS")
def one_class_in_two_objects():
    built = plain()
    return Built(built.images, built.labels * 2)


@case("LABELS_FRACTIONAL")
def fractional_without_a_threshold():
    return plain(kind="FRACTIONAL")


@case("BAD_HEADER")
def fractional_beyond_its_maximum():
    return plain(lambda ds: changed(ds, MaximumFractionalValue=150), kind="FRACTIONAL", rule={"threshold": 0.5})


@case("BAD_HEADER")
def binary_of_eight_bits():
    return plain(lambda ds: changed(ds, BitsAllocated=8, BitsStored=8, HighBit=7))


@case("LABELS_NUMBERS")
def frame_of_a_segment_that_is_not_described():
    return plain(lambda ds: changed(frames(ds)[1].SegmentIdentificationSequence[0], ReferencedSegmentNumber=9))


@case("LABELS_NUMBERS")
def two_segments_of_one_number():
    return plain(lambda ds: ds.SegmentSequence.append(described(1, "spleen")), classes={1: "liver", 2: "spleen"})


@case("LABELS_NUMBERS")
def label_map_value_that_is_not_described():
    return plain(lambda ds: changed(ds.SegmentSequence[0], SegmentNumber=2), kind="LABELMAP")


@case("LABELS_MISPLACED")
def shifted_by_a_slice():
    def shift(ds):
        for own in frames(ds):
            own.PlanePositionSequence[0].ImagePositionPatient[2] += STEP

    return plain(shift)


@case("LABELS_MISPLACED")
def shifted_by_a_pixel():
    def shift(ds):
        for own in frames(ds):
            own.PlanePositionSequence[0].ImagePositionPatient[0] += SPACING[1]

    return plain(shift, cites=False)


@case("LABELS_MISPLACED")
def half_a_pixel_off():
    """Corners taken for centres."""

    def shift(ds):
        for own in frames(ds):
            own.PlanePositionSequence[0].ImagePositionPatient[1] -= SPACING[0] / 2

    return plain(shift)


@case("LABELS_MISPLACED")
def orientation_mirrored():
    """Rows are said to run to the other side, but positions and pixels were left as they were."""
    mirrored = [-1, 0, 0, 0, 1, 0]
    return plain(lambda ds: changed(ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0], ImageOrientationPatient=mirrored))


@case("LABELS_OUTSIDE")
def beyond_the_image():
    planes = own_grid(ORIGIN + [0, 0, 20], AXIAL, SPACING, (SHAPE[0], SHAPE[1] + 1), STEP, 9)
    return plain(planes=planes, shapes={LIVER: ball(9.0, CENTRE + [0, 0, 18])})


@case("LABELS_OUTSIDE")
def far_from_the_image():
    planes = own_grid(ORIGIN + 500, AXIAL, SPACING, (20, 20), STEP, 9)
    return plain(planes=planes, shapes={LIVER: ball(9.0, ORIGIN + 510)})


@case("LABELS_TILED")
def tiled():
    return plain(lambda ds: changed(ds, TotalPixelMatrixRows=1000, TotalPixelMatrixColumns=1000))


@case("TRUNCATED")
def pixels_cut():
    return plain(lambda ds: changed(ds, PixelData=ds.PixelData[:-40]))


@case("CORRUPT")
def pixels_too_many():
    return plain(lambda ds: changed(ds, PixelData=ds.PixelData + bytes(40)))


@case("MULTI_FRAME")
def fewer_descriptions_than_frames():
    return plain(lambda ds: frames(ds).pop())


@case("TOO_LARGE")
def rows_that_lie():
    return plain(lambda ds: changed(ds, Rows=65000))


@case("NO_POSITION")
def frame_without_a_position():
    return plain(lambda ds: frames(ds)[1].pop("PlanePositionSequence"))


@case("NO_POSITION")
def position_that_is_no_number():
    return plain(lambda ds: changed(frames(ds)[1].PlanePositionSequence[0], ImagePositionPatient=["nan", "0", "0"]))


@case("VARIABLE_SPACING")
def planes_at_no_regular_distance():
    planes = own_grid(ORIGIN, AXIAL, SPACING, (SHAPE[0], SHAPE[1] - 1), STEP, COUNT)
    planes = [(place + [0, 0, 1.1 * (number % 2)], *rest) for number, (place, *rest) in enumerate(planes)]
    return plain(planes=planes, thick=STEP)


@case("MIXED_SHAPE")
def frames_of_several_orientations():
    def turn(ds):
        frames(ds)[1].PlaneOrientationSequence = [Dataset()]
        frames(ds)[1].PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 1, 0, 0]

    return plain(turn)


@case("TRANSFER_SYNTAX")
def bits_said_to_be_compressed():
    def compressed(ds):
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
        ds.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x02\0\0\0ab\xfe\xff\xdd\xe0\0\0\0\0"
        ds["PixelData"].is_undefined_length = True

    return plain(compressed)


@case("LABELS_FRAME")
def image_of_several_frames_of_reference():
    built = plain()
    built.images[3].FrameOfReferenceUID = uid("another frame")
    return built


@case("SOP_CLASS")
def a_slice_given_for_labels():
    built = plain()
    return Built(built.images, [built.images[0]])


@case("TRUNCATED")
def byte_missing_among_the_pixels():
    """So few that the padding hides it from whoever counts pixels only."""
    from io import BytesIO

    import pydicom

    built = plain(shapes={LIVER: box(ORIGIN + [2, 2, 4], ORIGIN + [20, 20, 9])})
    stream = BytesIO()
    pydicom.dcmwrite(stream, built.labels[0], enforce_file_format=True)
    whole = stream.getvalue()
    assert int(built.labels[0].NumberOfFrames) * SHAPE[0] * SHAPE[1] // 8 < len(built.labels[0].PixelData)
    return Built(built.images, [whole[:-60] + whole[-59:]])


@case("CORRUPT")
def junk_given_for_labels():
    return Built(plain().images, [b"Dear reader, this is no segmentation.\n" * 40])
