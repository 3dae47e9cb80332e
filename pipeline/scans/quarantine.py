"""Why a file or scan is refused: one code, one sentence, one remedy each. No word of the user's stands in any of them."""

from __future__ import annotations

from enum import StrEnum

COLUMNS = ("file_id", "scan_id", "stage", "code", "reason", "remedy", "origin", "licence")


class Code(StrEnum):
    """Reason codes; ``REASONS`` says what each means and what to do."""

    UNREADABLE = "UNREADABLE"
    EMPTY = "EMPTY"
    TRUNCATED = "TRUNCATED"
    CORRUPT = "CORRUPT"
    TOO_LARGE = "TOO_LARGE"
    BAD_HEADER = "BAD_HEADER"
    DATA_TYPE = "DATA_TYPE"
    DIMENSIONS = "DIMENSIONS"
    ORIENTATION = "ORIENTATION"
    ORIENTATION_CONFLICT = "ORIENTATION_CONFLICT"
    NOT_FINITE = "NOT_FINITE"
    SCALING = "SCALING"
    SOP_CLASS = "SOP_CLASS"
    NOT_ORIGINAL = "NOT_ORIGINAL"
    BURNED_IN = "BURNED_IN"
    COLOUR = "COLOUR"
    TRANSFER_SYNTAX = "TRANSFER_SYNTAX"
    DEFLATED = "DEFLATED"
    NO_POSITION = "NO_POSITION"
    PIXEL_SPACING = "PIXEL_SPACING"
    TOO_FEW_SLICES = "TOO_FEW_SLICES"
    CONFLICT = "CONFLICT"
    DUPLICATE_POSITION = "DUPLICATE_POSITION"
    MISSING_SLICE = "MISSING_SLICE"
    VARIABLE_SPACING = "VARIABLE_SPACING"
    GANTRY_TILT = "GANTRY_TILT"
    SHIFTED_SLICES = "SHIFTED_SLICES"
    MIXED_SHAPE = "MIXED_SHAPE"
    MULTI_FRAME = "MULTI_FRAME"
    MOSAIC = "MOSAIC"
    DECODER = "DECODER"
    TIME_OUT = "TIME_OUT"
    LINK = "LINK"
    SPECIAL_FILE = "SPECIAL_FILE"
    CHANGED = "CHANGED"
    DETACHED = "DETACHED"
    DATASET_JSON = "DATASET_JSON"
    MISSING_FILE = "MISSING_FILE"
    LABELS_WITHOUT_IMAGE = "LABELS_WITHOUT_IMAGE"
    LABELS_AMBIGUOUS = "LABELS_AMBIGUOUS"
    LABELS_UNREFERENCED = "LABELS_UNREFERENCED"
    LABELS_PATIENT = "LABELS_PATIENT"
    LABELS_FRAME = "LABELS_FRAME"
    LABELS_MISPLACED = "LABELS_MISPLACED"
    LABELS_OUTSIDE = "LABELS_OUTSIDE"
    LABELS_SEGMENTS = "LABELS_SEGMENTS"
    LABELS_ABSENT = "LABELS_ABSENT"
    LABELS_OVERLAP = "LABELS_OVERLAP"
    LABELS_FRACTIONAL = "LABELS_FRACTIONAL"
    LABELS_NUMBERS = "LABELS_NUMBERS"
    LABELS_REPEATED = "LABELS_REPEATED"
    LABELS_CONTOUR = "LABELS_CONTOUR"
    LABELS_NOT_PLANAR = "LABELS_NOT_PLANAR"
    LABELS_BETWEEN_SLICES = "LABELS_BETWEEN_SLICES"
    LABELS_CROSSING = "LABELS_CROSSING"
    LABELS_TILED = "LABELS_TILED"
    LABELS_OFF_GRID = "LABELS_OFF_GRID"
    LABELS_NOT_WHOLE = "LABELS_NOT_WHOLE"
    LABELS_VALUES = "LABELS_VALUES"
    LABELS_NOT_BINARY = "LABELS_NOT_BINARY"


REASONS: dict[Code, tuple[str, str]] = {
    Code.UNREADABLE: ("The file cannot be opened.", "Check its permissions and the disk, then run again."),
    Code.EMPTY: ("The file has no content.", "Copy it again from its source."),
    Code.TRUNCATED: ("The file ends before its voxels do.", "Copy it again from its source."),
    Code.CORRUPT: ("The file's checksum or structure is broken.", "Copy it again from its source."),
    Code.TOO_LARGE: (
        "The file claims more voxels than the limits allow, shrank more than pictures do, or unpacks to more than its header says.",
        "Check the file; it may be damaged. A mask of more than 1 GiB that is nearly empty is read once it is stored uncompressed.",
    ),
    Code.BAD_HEADER: ("The header contradicts itself.", "Convert the scan again from its DICOM files."),
    Code.DATA_TYPE: ("The voxels are of a type that is no intensity.", "Convert to one integer or real number a voxel."),
    Code.DIMENSIONS: (
        "The file is not one three-dimensional volume.",
        "Set `four_d: split` for its source (convert: --four-d split), if its fourth axis counts volumes.",
    ),
    Code.ORIENTATION: ("The header gives no usable place in the body.", "Convert the scan again from its DICOM files."),
    Code.ORIENTATION_CONFLICT: (
        "The header places the voxels in two different ways.",
        "Convert again, so that sform and qform agree, or name the right one: `placement` of its source or task (convert: --placement).",
    ),
    Code.NOT_FINITE: ("Some voxels are no numbers, or too large.", "Find out which tool wrote them; repair the scan there."),
    Code.SCALING: ("The scaling of the stored values is zero or no number.", "Copy or convert the scan again."),
    Code.SOP_CLASS: ("The DICOM object is no CT, MR or PET image.", "Nothing to do, unless a scan was expected here."),
    Code.NOT_ORIGINAL: ("The image is a localizer, a projection, a rendering or a copy of a screen.", "Nothing to do."),
    Code.BURNED_IN: ("The image may have text burned into its pixels.", "Check it, and leave it out of research data."),
    Code.COLOUR: ("The image is in colour.", "Nothing to do; only intensities are read."),
    Code.TRANSFER_SYNTAX: (
        "The image's compression or encoding cannot be decoded here.",
        "Decompress it; lossless JPEG is read once the extra `vesalius[gdcm]` is installed.",
    ),
    Code.DEFLATED: ("The whole object is deflated, which is not read for safety.", "Store it in another transfer syntax."),
    Code.NO_POSITION: ("A slice has no valid position or orientation.", "Fetch the series again from its archive."),
    Code.PIXEL_SPACING: ("The pixel spacing is missing or not positive.", "Fetch the series again from its archive."),
    Code.TOO_FEW_SLICES: ("There are fewer slices than a volume needs.", "Nothing to do, if it is a localizer."),
    Code.CONFLICT: ("Two files claim to be the same image but differ.", "Find out which is right; remove the other."),
    Code.DUPLICATE_POSITION: ("Several slices lie at the same place.", "Separate the acquisitions into series of their own."),
    Code.MISSING_SLICE: ("A slice inside the volume is missing.", "Fetch the series again from its archive."),
    Code.VARIABLE_SPACING: ("The distance between slices varies.", "Nothing to do; such a series is no regular grid."),
    Code.GANTRY_TILT: ("The slices are sheared further than any gantry tilts.", "Fetch the series again from its archive."),
    Code.SHIFTED_SLICES: ("Slices are shifted sideways against each other.", "Nothing to do; such a series is no regular grid."),
    Code.MIXED_SHAPE: ("Slices differ in size or coding.", "Separate them into series of their own."),
    Code.MULTI_FRAME: ("The multi-frame object does not say where each of its frames lies.", "Convert it to single-frame objects first."),
    Code.MOSAIC: (
        "The image is a mosaic of slices, and its header does not say beyond doubt which tiles they are and where they lie.",
        "Take it from before its private elements were removed, or export it as enhanced DICOM.",
    ),
    Code.DECODER: ("The pixel data could not be decoded.", "Copy the file again from its source."),
    Code.TIME_OUT: ("Reading took longer than the limit allows.", "Look at the file; it may be damaged on purpose."),
    Code.LINK: ("The file is a link that leads out of the folder, or to nothing.", "Put the file itself into the folder."),
    Code.SPECIAL_FILE: ("It is no regular file.", "Remove it from the folder."),
    Code.LABELS_WITHOUT_IMAGE: (
        "No image has the name of this label file, or is the one that it refers to.",
        "Name it like its image, or like the folder of the DICOM series; put the image that a DICOM object refers to below `sources`.",
    ),
    Code.LABELS_AMBIGUOUS: (
        "Several images or label files have this name, or labels refer to several images, or give one image the same class twice.",
        "Give each image and its labels a name of their own; keep one set of labels for an image.",
    ),
    Code.LABELS_UNREFERENCED: (
        "The segmentation or structure set does not say which image it was drawn on.",
        "Export it again with its references, or as NIfTI on the grid of its image.",
    ),
    Code.LABELS_PATIENT: (
        "The labels are of another patient than the image that they refer to.",
        "Find out whose they are; mend the one that is wrong.",
    ),
    Code.LABELS_FRAME: (
        "The labels and their image are in different frames of reference, or only one of them names one.",
        "Export the labels again for this image.",
    ),
    Code.LABELS_MISPLACED: (
        "The labels do not lie on the slices that they say they were drawn on.",
        "Export them again; the tool that wrote them gave them a wrong place.",
    ),
    Code.LABELS_OUTSIDE: ("The labels reach beyond the image.", "Give the whole image, or labels that were cut as it was."),
    Code.LABELS_SEGMENTS: (
        "A structure's name stands under none of the task's `segments`, or under several; or a mask's under several of its `masks`.",
        "Look at segments.tsv in the study's private folder; name each structure in the task, under 0 where it is to be left out.",
    ),
    Code.LABELS_ABSENT: (
        "A structure that the task asks for is not there, or is empty; or an image has no file for one of the task's `masks`.",
        "Draw it; or list it under `may_be_absent` of the task, if that means that the patient has none.",
    ),
    Code.LABELS_OVERLAP: (
        "Structures of different classes overlap.",
        "Say under `on_top` of the task which of them lies over the others; `overlapping: last` gives such voxels to the later class.",
    ),
    Code.LABELS_FRACTIONAL: (
        "The segmentation is fractional, and the task does not say from which share on a voxel is inside.",
        "Set `threshold` in the task, such as 0.5.",
    ),
    Code.LABELS_NUMBERS: (
        "The numbers of structures contradict each other: one is there twice, or is used but not described.",
        "Export the labels again.",
    ),
    Code.LABELS_REPEATED: ("A frame or a contour of a structure is there twice.", "Export the labels again."),
    Code.LABELS_CONTOUR: (
        "A contour's coordinates are missing, no numbers, or not as many as it says.",
        "Export the structure set again.",
    ),
    Code.LABELS_NOT_PLANAR: (
        "Contours do not lie in planes along the image's slices.",
        "Export the structures as a segmentation, or draw them on the slices of this image.",
    ),
    Code.LABELS_BETWEEN_SLICES: (
        "Contours lie between the image's slices, or on every other slice only; nothing is interpolated.",
        "Let the tool that drew them interpolate to every slice of this image.",
    ),
    Code.LABELS_CROSSING: (
        "Contours of one structure cross each other in a slice, so that inside and outside are open to doubt.",
        "Unite the contours in the tool that drew them.",
    ),
    Code.LABELS_TILED: ("The segmentation is tiled, as those of slides are.", "Nothing to do; only volumes are read."),
    Code.LABELS_OFF_GRID: ("The label volume lies on another grid than its image.", "Resample the labels onto the grid of their image."),
    Code.LABELS_NOT_WHOLE: (
        "The label volume holds values that are no whole numbers from 0 to 255, or several channels.",
        "Write one whole number a voxel.",
    ),
    Code.LABELS_VALUES: (
        "The label volume holds a value that is none of the task's classes.",
        "Name the value under `classes` of the task, or mend the label file.",
    ),
    Code.LABELS_NOT_BINARY: (
        "A mask of one structure holds values other than 0 and 1, or 0 and 255.",
        "Write 1 inside and 0 outside; or take the file out of the task's `masks`, if it is none.",
    ),
    Code.DETACHED: (
        "The voxels' own file is missing, is several files, or does not lie beside its header.",
        "Put the one file of the voxels into the folder of its header.",
    ),
    Code.DATASET_JSON: (
        "The JSON that describes this folder is broken, or its entries are not what its format asks for.",
        "Mend it, or remove it: then names of files and folders decide what they are.",
    ),
    Code.MISSING_FILE: (
        "The JSON of a folder names this file, but it is not there, or lies outside the source.",
        "Complete the copy, or take the file out of the JSON.",
    ),
    Code.CHANGED: ("The file changed while it was read.", "Wait until copying has ended, then run again."),
}


class Refused(ValueError):
    """A scan that is not read, with its code; the message is the code's fixed sentence."""

    def __init__(self, code: Code) -> None:
        super().__init__(REASONS[code][0])
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[Code]]:
        return Refused, (self.code,)


def quarantine_row(stage: str, code: Code, file_id: str = "", scan_id: str = "", origin: str = "", licence: str = "") -> dict[str, str]:
    """A row of quarantine.tsv."""
    reason, remedy = REASONS[code]
    return dict(zip(COLUMNS, (file_id, scan_id, stage, code.value, reason, remedy, origin, licence), strict=True))
