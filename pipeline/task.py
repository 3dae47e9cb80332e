"""Task: what transfer is measured on. Frozen values from YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.configuration import Name, Placement
from pipeline.plugins import Config, one_of

if TYPE_CHECKING:
    from pipeline.labels.rule import Rule

Class = Annotated[int | str, Field(description="A class, by its label value or its name.")]


class Task(Config):
    """What transfer is measured on. Names of segments are free text of the user's: they stay in this file and in the private folder."""

    name: Name
    description: str = ""
    labels: str = Field(
        "",
        description="Folder of label volumes, one for each labelled image, found by place and name (docs/labels.md), or of DICOM "
        "segmentations and structure sets, which belong to the image that they refer to. Without it, the DICOM ones found among the "
        "scans. {data} is the study's data.",
    )
    masks: Literal["by_name"] | dict[Class, tuple[str, ...]] | None = Field(
        None,
        description="Of labels with a file for each structure (case01/segmentations/liver.nii.gz): class -> names of its files without "
        "their ending, as under `segments`; several files may be one class. by_name: classes have their files' names. Files that no "
        "class names are left out. Default: a label file holds all classes.",
    )
    placement: Placement | None = Field(
        None,
        description="NIfTI label files whose sform and qform are both coded: which of the two places them. Default: as the source of their "
        "image says; where that says nothing either, they are refused if the two disagree.",
    )
    segments: dict[Class, tuple[str, ...]] | None = Field(
        None,
        description="Of DICOM labels: class -> names of its segments or regions of interest; * and ? stand for any letters, case does not "
        "matter, code:SCHEME:VALUE is the coded type. 0 (background) lists what is left out. Default: classes have their segments' names.",
    )
    may_be_absent: tuple[Class, ...] = Field(
        (),
        description="Classes that a patient may not have: no segment, or an empty one, is no error; nor is a missing file of `masks`, "
        "whose empty ones are none anyway.",
    )
    on_top: tuple[Class, ...] = Field(
        (), description="Classes that lie over all others where DICOM segments or masks overlap, the topmost first."
    )
    overlapping: Literal["refuse", "last"] = Field(
        "refuse",
        description="Voxels that several classes claim, none of which is `on_top`. refuse: the scan has no labels, and the log says which "
        "classes and how many voxels. last: the class of the largest label value has them.",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Voxels of a fractional DICOM segmentation from this share on are inside; without it such are refused.",
    )
    kind: Annotated[dict[str, Any], one_of("tasks")]

    @model_validator(mode="after")
    def _classes_are_known(self) -> Task:
        classes = self.classes()
        if self.masks is not None and not self.labels:
            raise ValueError("masks: need `labels`, the folder below which they lie; that may be the folder of the scans")
        for key in ("segments", "masks", "may_be_absent", "on_top"):
            value = getattr(self, key)
            for item in () if value in (None, "by_name") else value:
                if _value_of(item, classes) is None:
                    told = ", ".join(f"{value}: {name}" for value, name in classes.items()) or "none"
                    raise ValueError(f"{key}: {item!r} is no class under `kind`; there are {told}")
        return self

    def classes(self) -> dict[int, str]:
        """Label value -> name."""
        return {int(value): name for value, name in next(iter(self.kind.values())).get("classes", {}).items()}

    def rule(self) -> Rule:
        """How DICOM labels become label values."""
        return self._rule(self.segments)

    def mask_rule(self) -> Rule | None:
        """Which mask is which class; None where a label file holds all classes."""
        return None if self.masks is None else self._rule(None if self.masks == "by_name" else self.masks)

    def _rule(self, named: dict[Class, tuple[str, ...]] | None) -> Rule:
        """``named`` by class; without it each has the name of its own."""
        from pipeline.labels.rule import rule_of

        classes = self.classes()
        values = {key: tuple(_value_of(item, classes) for item in getattr(self, key)) for key in ("may_be_absent", "on_top")}
        claims = None if named is None else {_value_of(item, classes): names for item, names in named.items()}
        return rule_of(classes, claims, **values, threshold=self.threshold, overlapping=self.overlapping)

    def settings(self) -> dict[str, Any]:
        """All of it, but for what says how labels are read where that is not said."""
        unset = {key for key in READ_LABELS if getattr(self, key) == type(self).model_fields[key].default}
        return self.model_dump(mode="json", exclude=unset)


# What a label volume holds afterwards has a digest of its own.
READ_LABELS = ("masks", "placement", "segments", "may_be_absent", "on_top", "overlapping", "threshold")


def _value_of(item: int | str, classes: dict[int, str]) -> int | None:
    """The label value of a class by its value or its name; 0 is the background."""
    named = {name: value for value, name in classes.items()} | {"background": 0}
    if item in named:
        return named[item]
    value = int(item) if str(item).isdecimal() else -1
    return value if value in classes or value == 0 else None
