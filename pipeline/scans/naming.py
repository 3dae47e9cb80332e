"""What a file's place in a folder says: subject, visit and channel. Known layouts: BIDS, nnU-Net and Decathlon, a folder for each subject,
a flat folder. Nothing read here leaves the crosswalk but as a keyed hash, or as a name from a closed list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.scans.walk import stem_of

BIDS_MODALITY = {
    "T1w": "MR", "T2w": "MR", "FLAIR": "MR", "PDw": "MR", "T2starw": "MR", "inplaneT1": "MR", "inplaneT2": "MR", "angio": "MR",
    "bold": "MR", "sbref": "MR", "dwi": "MR", "epi": "MR", "T1map": "MR", "T2map": "MR", "UNIT1": "MR", "asl": "MR", "m0scan": "MR",
    "pet": "PT", "ct": "CT",
}  # fmt: skip
BIDS_LABELS = ("dseg", "probseg", "mask")
NO_SUBJECT = re.compile(
    r"(images?|labels?|masks?|seg(mentation)?s?)(tr|ts|va)?|train(ing)?|test(ing)?|val(idation)?|data|raw(data)?|derivatives|nifti|dicom|"
    r"ct|mri?|pt|pet|anat|func|dwi|fmap|perf",
    re.IGNORECASE,
)
NNUNET_CHANNEL = re.compile(r"^(.+)_(\d{4})$")


@dataclass(frozen=True)
class Named:
    """``subject`` and ``exam`` are the user's own words; ``key`` is what a label file of the same image is called."""

    subject: str
    exam: str
    key: str
    channel: str
    modality: str
    is_labels: bool = False


def name_of(relative: str, channels: Sequence[str] = ()) -> Named:
    """Of an image file at ``relative`` below its source. ``channels`` are the study's, looked for at the end of the name."""
    path = PurePosixPath(relative)
    stem = stem_of(path.name)
    entities = dict(re.findall(r"(sub|ses)-([A-Za-z0-9]+)", relative))
    folders = [part for part in path.parts[:-1] if not NO_SUBJECT.fullmatch(part)]
    base, channel = _channel_of(stem, channels)
    if "sub" in entities:
        suffix = stem.rsplit("_", 1)[-1]
        exam = f"{entities['sub']}\x1f{entities.get('ses', '')}"
        found = channel or (suffix if suffix in BIDS_MODALITY else "")
        return Named(f"sub-{entities['sub']}", exam, base, found, BIDS_MODALITY.get(suffix, ""), suffix in BIDS_LABELS)
    if folders:
        return Named(folders[0], "/".join(folders), base, channel, "")
    return Named(base, base, base, channel, "")


def label_key(name: str) -> str:
    """What an image must be called to own the label file of this name."""
    return stem_of(name)


def _channel_of(stem: str, channels: Sequence[str]) -> tuple[str, str]:
    """(name without the channel, channel): nnU-Net's four digits, or one of the study's channels behind an underscore."""
    numbered = NNUNET_CHANNEL.match(stem)
    if numbered and (not channels or numbered[2] in channels):
        return numbered[1], numbered[2]
    for channel in sorted(channels, key=len, reverse=True):
        if stem.lower() == channel.lower():
            return stem, channel
        if stem.lower().endswith(f"_{channel.lower()}"):
            return stem[: -len(channel) - 1], channel
    return stem, ""
