"""What is odd about a scan that is right all the same: a code and a sentence each. A flag refuses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from pipeline.scans.dicom.slices import Slice
from pipeline.scans.dicom.suv import is_suv


class Flag(StrEnum):
    """``FLAGS`` says what each means."""

    FEWER_IMAGES = "FEWER_IMAGES"
    MONOCHROME1 = "MONOCHROME1"
    NOT_SUV = "NOT_SUV"


FLAGS: dict[Flag, str] = {
    Flag.FEWER_IMAGES: "The DICOM series has fewer images than its header says were acquired: slices may be missing at an end.",
    Flag.MONOCHROME1: "The DICOM images ask to be shown inverted; their values are kept as they are.",
    Flag.NOT_SUV: "The PET is in the units of its file and no SUV: an input is missing, odd, or not the same in all slices.",
}


def flags_of(slices: Sequence[Slice], num_images: int) -> str:
    """Of a volume's slices, of whose series there are so many images (0: a file holds the whole volume). Raises ``Refused``."""
    found = []
    if 0 < num_images < max(item.acquired for item in slices):
        found.append(Flag.FEWER_IMAGES)
    if any(item.inverted for item in slices):
        found.append(Flag.MONOCHROME1)
    if slices[0].modality == "PT" and (num_images == 0 or not is_suv(slices)):
        found.append(Flag.NOT_SUV)
    return " ".join(found)


def united(flags: Iterable[str]) -> str:
    """The flags of several scans, each once, in order."""
    return " ".join(sorted({flag for several in flags for flag in several.split()}))
