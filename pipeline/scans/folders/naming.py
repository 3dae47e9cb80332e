"""What a file's place in a folder says: subject, visit and channel. Known layouts: BIDS, nnU-Net and Decathlon, a folder for each subject,
a flat folder. Nothing read here leaves the crosswalk but as a keyed hash, or as a name from a closed list."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pipeline.scans.folders.walk import stem_of

BIDS_MODALITY = {
    "T1w": "MR", "T2w": "MR", "FLAIR": "MR", "PDw": "MR", "T2starw": "MR", "inplaneT1": "MR", "inplaneT2": "MR", "angio": "MR",
    "bold": "MR", "sbref": "MR", "dwi": "MR", "epi": "MR", "T1map": "MR", "T2map": "MR", "UNIT1": "MR", "asl": "MR", "m0scan": "MR",
    "pet": "PT", "ct": "CT",
}  # fmt: skip
BIDS_LABELS = ("dseg", "probseg", "mask", "roi")
LABEL_FOLDER = re.compile(r"(labels?|masks?|seg(mentation)?s?)(tr|ts|va|val)?", re.IGNORECASE)
LABEL_WORDS = {"seg", "segm", "segmentation", "mask", "label", "labels", "dseg", "gt"}
IMAGE_WORDS = {"image", "img", "imaging", "volume", "vol", "scan"}
MODALITY_WORDS = {
    "CT": {"ct", "cta", "cbct", "ncct", "cect"},
    "MR": {"mr", "mri", "t1", "t1w", "t1gd", "t1ce", "t1c", "t1n", "t2", "t2w", "t2f", "t2star", "flair", "pd", "pdw", "adc", "dwi", "swi",
           "bold", "cinemri", "mra", "tof"},
    "PT": {"pt", "pet", "suv", "fdg", "psma"},
}  # fmt: skip
NO_SUBJECT = re.compile(
    r"(images?|labels?|masks?|seg(mentation)?s?)(tr|ts|va)?|train(ing)?|test(ing)?|val(idation)?|data|raw(data)?|derivatives|nifti|dicom|"
    r"ct|mri?|pt|pet|anat|func|dwi|fmap|perf",
    re.IGNORECASE,
)
MOST_WORDS = 12  # that tell the volumes of one subject apart; more of them are names
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


def name_of(relative: str, channels: Sequence[str] = (), subject: str = "") -> Named:
    """Of an image file at ``relative`` below its source. ``channels`` are the study's, looked for at the end of the name; ``subject`` is
    the source's pattern for the subject, and a file that it does not match is named as if there were none."""
    return with_subject(_layout(relative, channels), relative, subject)


def with_subject(named: Named, relative: str, pattern: str) -> Named:
    """The name with the subject that a source's pattern finds, if it finds one."""
    path = PurePosixPath(relative)
    found = re.search(pattern, (path.parent / stem_of(path.name)).as_posix()) if pattern else None
    return replace(named, subject=found[1] if found.re.groups and found[1] else found[0]) if found else named


def modality_of(text: str) -> str:
    """CT, MR or PT by the words of a channel's or a modality's name; "" where it says none, or several."""
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    found = [modality for modality, known in MODALITY_WORDS.items() if words & known] or [BIDS_MODALITY.get(text, "")]
    return found[0] if len(found) == 1 else ""


def words_of(stem: str) -> list[str]:
    """Of a file's name."""
    return [word for word in re.split(r"[\s_.-]+", stem) if word]


def plain(stem: str) -> str:
    """A name without the words that say whether it is an image or labels: CT of CT_image and of CT_mask."""
    return "_".join(word for word in words_of(stem) if word.lower() not in LABEL_WORDS | IMAGE_WORDS)


def says_labels(stem: str) -> bool:
    """Whether a name ends with a word for labels (case01_seg), or is one and a number (segmentation-1)."""
    words = [word.lower() for word in words_of(stem)]
    return bool(words) and (words[-1] in LABEL_WORDS or (words[0] in LABEL_WORDS and all(word.isdecimal() for word in words[1:])))


def modality_in(stem: str) -> str:
    """What a file's name says of its modality, for want of a better witness: PT alone is also short for patient, unless it comes last."""
    words = words_of(stem)
    return modality_of(" ".join(word for number, word in enumerate(words, 1) if word.lower() != "pt" or number == len(words)))


def shared_subject(stems: Sequence[str]) -> str:
    """Pattern of subjects of which a folder holds several volumes, told apart by one last word (patient001_ED, patient001_ES); or ""."""
    parts = [match.groups() for stem in stems if (match := re.fullmatch(r"(.+)_([A-Za-z0-9]+)", stem))]
    people, words = Counter(person for person, _ in parts), Counter(word for _, word in parts)
    if len(parts) < len(stems) or len(people) < 3 or len(words) > MOST_WORDS or min(words.values()) < 2:
        return ""
    several = sum(count for count in people.values() if count > 1)
    return r"([^/]+)_[A-Za-z0-9]+$" if several >= len(stems) / 2 else ""


def _layout(relative: str, channels: Sequence[str]) -> Named:
    path = PurePosixPath(relative)
    stem = stem_of(path.name)
    entities = dict(re.findall(r"(sub|ses)-([A-Za-z0-9]+)", relative))
    folders = [part for part in path.parts[:-1] if not NO_SUBJECT.fullmatch(part)]
    base, channel = channel_of(stem, channels)
    sorted_as_labels = any(LABEL_FOLDER.fullmatch(part) for part in path.parts[:-1])
    if "sub" in entities:
        suffix = stem.rsplit("_", 1)[-1]
        exam = f"{entities['sub']}\x1f{entities.get('ses', '')}"
        found = channel or (suffix if suffix in BIDS_MODALITY else "")
        labels = suffix in BIDS_LABELS or sorted_as_labels
        return Named(f"sub-{entities['sub']}", exam, base, found, BIDS_MODALITY.get(suffix, ""), labels)
    labels = sorted_as_labels or says_labels(stem)
    modality = modality_of(channel) if channels else ""
    if folders:
        return Named(folders[0], "/".join(folders), base, channel, modality, labels)
    return Named(base, base, base, channel, modality, labels)


def label_key(name: str) -> str:
    """What an image must be called to own the label file of this name."""
    return stem_of(name)


def channel_of(stem: str, channels: Sequence[str]) -> tuple[str, str]:
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
