# ruff: noqa: RUF005 (arrays are added, not joined)
"""Fault cases of DICOM structure sets."""

import numpy as np
from drawn import (
    CENTRE,
    COUNT,
    ORIGIN,
    SHAPE,
    STEP,
    ball,
    box,
    contour,
    image,
    make_structure_set,
    outline,
    plane_of,
    rectangle,
)  # fmt: skip
from faults.phantom import turned
from faults.series import uid
from label_cases import Built, Table, changed

CASES = Table()
case = CASES.case
LIVER = (1, "liver")
SLICES = range(3, 9)
OUTER, INNER = ((3.5, 2.5), (20.5, 16.5)), ((8.5, 6.5), (14.5, 11.5))  # between centres of pixels, (row, column)


def shape_of(slices, low, high, numbers=SLICES):
    """Depth of a box of whole pixels: rows and columns between ``low`` and ``high`` in the slices of these numbers."""
    position, orientation, spacing, _ = plane_of(slices[0])
    row, column = orientation[:3], orientation[3:]
    normal = np.cross(row, column)
    middle = sum(plane_of(slices[number])[0] @ normal for number in numbers) / len(numbers)

    def depth(points):
        away = points - position
        sides = [
            (away @ column / spacing[0], low[0], high[0], spacing[0]), (away @ row / spacing[1], low[1], high[1], spacing[1]),
            ((points @ normal - middle) / STEP, -len(numbers) / 2, len(numbers) / 2, STEP),
        ]  # fmt: skip
        return np.min([np.minimum(at - a, b - at) * size for at, a, b, size in sides], axis=0)

    return depth


def without(whole, hole):
    return lambda points: np.minimum(whole(points), -hole(points))


def drawn(slices, *corners, numbers=SLICES):
    """Contours of some corners, (row, column), in each slice."""
    return [(number, outline(slices[number], item)) for number in numbers for item in corners]


def plain(spoil=None, corners=None, slices=None, **options):
    """A box of whole pixels, drawn between pixel centres; what the case spoils."""
    slices = image() if slices is None else slices
    rest = {name: options.pop(name) for name in ("classes", "rule", "near_mm", "truth") if name in options}
    ds = make_structure_set(slices, {LIVER: drawn(slices, *(corners or [rectangle(*OUTER)]), **options)})
    if spoil is not None:
        spoil(ds)
    return Built(slices, [ds], **{"truth": {1: shape_of(slices, *OUTER)}, **rest})


def contours(ds, region=0):
    return ds.ROIContourSequence[region].ContourSequence


@case()
def box_of_whole_pixels():
    return plain()


@case()
def contours_permuted():
    def shuffle(ds):
        order = np.random.default_rng(1).permutation(len(contours(ds)))
        ds.ROIContourSequence[0].ContourSequence = [contours(ds)[place] for place in order]

    return plain(shuffle)


@case()
def first_point_repeated_at_the_end():
    return plain(corners=[[*rectangle(*OUTER), rectangle(*OUTER)[0]]])


@case()
def drawn_clockwise():
    return plain(corners=[rectangle(*OUTER)[::-1]])


@case()
def nested_contours_are_a_hole():
    slices = image()
    truth = {1: without(shape_of(slices, *OUTER), shape_of(slices, *INNER))}
    return plain(slices=slices, corners=[rectangle(*OUTER), rectangle(*INNER)], truth=truth)


@case()
def island_in_a_hole():
    slices, island = image(), ((10.5, 7.5), (12.5, 10.5))
    hole = without(shape_of(slices, *OUTER), shape_of(slices, *INNER))
    truth = {1: lambda points: np.maximum(hole(points), shape_of(slices, *island)(points))}
    return plain(slices=slices, corners=[rectangle(*INNER), rectangle(*island), rectangle(*OUTER)], truth=truth)


@case()
def keyhole_is_a_hole():
    slices = image()
    truth = {1: without(shape_of(slices, *OUTER), shape_of(slices, *INNER))}
    outer, inner = rectangle(*OUTER), rectangle(*INNER)
    one = [*outer, outer[0], inner[0], *inner[::-1], inner[0], outer[0]]
    return plain(slices=slices, corners=[one], truth=truth)


@case()
def two_parts_in_one_slice():
    slices, parts = image(), [((2.5, 1.5), (9.5, 8.5)), ((12.5, 10.5), (20.5, 19.5))]
    both = [shape_of(slices, *part) for part in parts]
    truth = {1: lambda points: np.maximum(both[0](points), both[1](points))}
    return plain(slices=slices, corners=[rectangle(*part) for part in parts], truth=truth)


@case()
def two_regions_that_share_an_edge():
    """An outline through pixel centres: each centre on it goes to the region on its Right."""
    slices, edge = image(), 9.0
    left, right = ((3.5, 2.5), (20.5, edge)), ((3.5, edge), (20.5, 16.5))
    regions = {LIVER: drawn(slices, rectangle(*left)), (2, "spleen"): drawn(slices, rectangle(*right))}
    truth = {1: shape_of(slices, left[0], (20.5, edge + 0.5)), 2: shape_of(slices, (3.5, edge + 0.5), right[1])}
    return Built(slices, [make_structure_set(slices, regions)], truth, {1: "liver", 2: "spleen"})


@case()
def ball_drawn_finely():
    slices, regions = image(), []
    for number, ds in enumerate(slices):
        position, _, spacing, _ = plane_of(ds)
        radius = 9.0**2 - (CENTRE[2] - position[2]) ** 2
        angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
        if radius > 0:
            ring = np.stack([np.sin(angles), np.cos(angles)], 1) * np.sqrt(radius) + (CENTRE - position)[[1, 0]]
            regions.append((number, outline(ds, ring / spacing)))
    return Built(slices, [make_structure_set(slices, {LIVER: regions})], {1: ball()}, near_mm=0.001)


@case()
def oblique_slices():
    return plain(slices=image(orientation=tuple(turned(12, -9, 20)[:, :2].T.ravel())))


@case()
def sagittal_slices():
    return plain(slices=image(orientation=(0, 1, 0, 0, 0, -1)))


@case()
def tilted_slices():
    """Contours lie where they lie, though the image is put upright."""
    slices = [image(count=number + 1, shift=(0.0, 0.5 * number))[number] for number in range(COUNT)]
    low, high = ORIGIN + [2.7, 8.3, 3 * STEP - 1.1], ORIGIN + [20.2, 26.9, 9 * STEP - 1.3]
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    region = [(number, np.array([(*corner, ORIGIN[2] + number * STEP) for corner in corners])) for number in SLICES]
    return Built(slices, [make_structure_set(slices, {LIVER: region})], {1: box(low, high)})


@case()
def points_and_open_lines_beside_contours():
    def more(ds):
        contours(ds).append(contour([CENTRE], kind="POINT"))
        contours(ds).append(contour([CENTRE, CENTRE + 3, CENTRE + 5], kind="OPEN_NONPLANAR"))

    return plain(more)


@case()
def closed_contours_of_two_points():
    return plain(lambda ds: contours(ds).append(contour([ORIGIN, ORIGIN + 1])))


@case()
def exclusive_or_said_aloud():
    slices = image()
    truth = {1: without(shape_of(slices, *OUTER), shape_of(slices, *INNER))}

    def say(ds):
        for item in contours(ds):
            item.ContourGeometricType = "CLOSEDPLANAR_XOR"

    return plain(say, slices=slices, corners=[rectangle(*OUTER), rectangle(*INNER)], truth=truth)


@case()
def contours_that_cite_nothing():
    slices = image()
    ds = make_structure_set(slices, {LIVER: drawn(slices, rectangle(*OUTER))}, cites=False)
    return Built(slices, [ds], {1: shape_of(slices, *OUTER)})


@case()
def region_left_out_may_be_broken():
    """What the task leaves out is not judged."""
    slices = image()
    regions = {LIVER: drawn(slices, rectangle(*OUTER)), (2, "couch"): [(4, outline(slices[4], rectangle((-90, -90), (90, 90))))]}
    return Built(slices, [make_structure_set(slices, regions)], {1: shape_of(slices, *OUTER)}, {0: "couch", 1: "liver"})


@case()
def drawn_on_another_series_of_the_frame():
    """Contours of a finer series: each of the image's slices takes the nearest plane."""
    fine = image(count=24, step=STEP / 2, series="B")
    ds = make_structure_set(fine, {LIVER: drawn(fine, rectangle(*OUTER), numbers=range(6, 18))})
    slices = image()
    return Built(slices, [ds], {1: box(ORIGIN + [2.5 * 1.25, 3.5 * 1.5, 5.4 * 1.25], ORIGIN + [16.5 * 1.25, 20.5 * 1.5, 17.4 * 1.25])})


def spoiled(name, code, spoil, **options):
    """A case of one refusal."""

    def build():
        return plain(spoil, **options)

    build.__name__ = name
    case(code)(build)


def first(**words):
    return lambda ds: changed(contours(ds)[0], **words)


NUMBERS = ["1", "2", "20", "5", "2", "20", "5", "9", "20"]
spoiled("coordinate_that_is_no_number", "LABELS_CONTOUR", first(ContourData=["nan", *NUMBERS[1:]], NumberOfContourPoints=3))
spoiled("coordinate_without_end", "LABELS_CONTOUR", first(ContourData=["1e400", *NUMBERS[1:]], NumberOfContourPoints=3))
spoiled("coordinate_far_from_any_scanner", "LABELS_CONTOUR", first(ContourData=["1e6", *NUMBERS[1:]], NumberOfContourPoints=3))
spoiled("two_numbers_a_point", "LABELS_CONTOUR", first(ContourData=NUMBERS[:8], NumberOfContourPoints=4))
spoiled("fewer_points_than_it_says", "LABELS_CONTOUR", first(NumberOfContourPoints=5))
spoiled("contour_of_an_unknown_kind", "LABELS_CONTOUR", first(ContourGeometricType="CLOSED_PLANE"))
spoiled("contour_of_no_kind", "LABELS_CONTOUR", first(ContourGeometricType=None))
spoiled("contour_without_data", "LABELS_CONTOUR", first(ContourData=None))
spoiled("structure_set_of_another_patient", "LABELS_PATIENT", lambda ds: changed(ds, PatientID="P2"))
spoiled("region_in_another_frame_of_reference", "LABELS_FRAME",
        lambda ds: changed(ds.StructureSetROISequence[0], ReferencedFrameOfReferenceUID=uid("another frame")))  # fmt: skip
spoiled("contours_of_a_region_that_is_not_described", "LABELS_NUMBERS",
        lambda ds: changed(ds.ROIContourSequence[0], ReferencedROINumber=5))  # fmt: skip
spoiled("two_regions_of_one_number", "LABELS_NUMBERS", lambda ds: ds.StructureSetROISequence.append(ds.StructureSetROISequence[0]))
spoiled("a_contour_twice", "LABELS_REPEATED", lambda ds: contours(ds).append(contours(ds)[2]))
spoiled("contours_that_cross", "LABELS_CROSSING", None, corners=[rectangle((3.5, 2.5), (14.5, 12.5)), rectangle((8.5, 6.5), (20.5, 16.5))])
spoiled("contours_beyond_the_image", "LABELS_OUTSIDE", None, corners=[rectangle((3.5, 2.5), (SHAPE[0] + 2, 16.5))])
spoiled("region_without_contours", "LABELS_ABSENT", lambda ds: changed(ds.ROIContourSequence[0], ContourSequence=None))
spoiled("region_smaller_than_a_pixel", "LABELS_ABSENT", None, corners=[rectangle((3.2, 2.2), (3.8, 2.8))])
spoiled("region_of_points_only", "LABELS_ABSENT",
        lambda ds: changed(ds.ROIContourSequence[0], ContourSequence=[contour([CENTRE], kind="POINT")]))  # fmt: skip
spoiled("every_other_slice", "LABELS_BETWEEN_SLICES", None, numbers=range(2, 10, 2))


def shifted(millimetres, cites=False):
    """Every contour moved along the normal."""

    def spoil(ds):
        for item in contours(ds):
            points = np.array(item.ContourData, float).reshape(-1, 3) + [0, 0, millimetres]
            item.ContourData = [f"{c:.6f}" for c in points.ravel()]
            if not cites:
                del item.ContourImageSequence

    return spoil


spoiled("between_the_slices", "LABELS_BETWEEN_SLICES", shifted(STEP / 2))
spoiled("contours_a_slice_off_what_they_cite", "LABELS_MISPLACED", shifted(STEP, cites=True))
spoiled("contours_beyond_the_last_slice", "LABELS_OUTSIDE", shifted(16 * STEP))


@case("LABELS_NOT_PLANAR")
def contours_drawn_sagittally():
    """On the reformat of an axial image."""
    slices, corners = image(), [(10.0, 8.0), (26.0, 8.0), (26.0, 22.0), (10.0, 22.0)]
    region = [(number, np.array([(ORIGIN[0] + number * 1.25, ORIGIN[1] + y, ORIGIN[2] + z) for y, z in corners])) for number in SLICES]
    return Built(slices, [make_structure_set(slices, {LIVER: region}, cites=False)])


@case("TOO_LARGE")
def more_contours_than_any_tool_draws():
    """A quarter of a million empty contours in a few megabytes."""
    from io import BytesIO

    import pydicom

    slices = image()
    ds = make_structure_set(slices, {LIVER: drawn(slices, rectangle(*OUTER), numbers=range(3, 4))})
    stream = BytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    whole = stream.getvalue()
    empty = b"\xfe\xff\x00\xe0\x08\0\0\0\x06\x30\x50\x00DS\0\0"
    at = whole.rindex(b"\x06\x30\x80\x00SQ")  # the observations follow
    return Built(
        slices, [whole[:at] + b"\x06\x30\x40\x00SQ\0\0\xff\xff\xff\xff" + empty * 250_000 + b"\xfe\xff\xdd\xe0\0\0\0\0" + whole[at:]]
    )


@case("TOO_LARGE")
def a_thousand_contours_in_a_slice():
    slices = image()
    tiny = [rectangle((3 + 0.001 * number, 3), (3.4 + 0.001 * number, 3.3))[:3] for number in range(1001)]
    return Built(slices, [make_structure_set(slices, {LIVER: drawn(slices, *tiny, numbers=[4])}, cites=False)])
