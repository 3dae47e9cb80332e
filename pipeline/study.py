"""Study: what to run. Frozen values from YAML."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.configuration import Name, Placement, Triple, TripleMm
from pipeline.plugins import Config


class Source(Config):
    """A folder of scans."""

    path: str = Field(description="Folder; {data} stands for the study's data folder.")
    modality: Literal["CT", "MR", "PT"] | None = Field(None, description="Of files that don't say it themselves (NIfTI).")
    channel: str | None = Field(None, description="Channel name of files that don't say it themselves.")
    subject: Annotated[str, AfterValidator(lambda pattern: _pattern(pattern))] | None = Field(
        None,
        max_length=200,
        description="Regular expression that finds the subject in a NIfTI or MetaImage file's path below the source, without its ending: "
        "its first group, or all that it matches. For folders with several volumes of one person, such as patient001_ED and patient001_ES.",
    )
    cohort: Name | None = Field(
        None,
        description="Who the subjects' names mean: sources of one cohort show the same people under the same names, other cohorts' equal "
        "names are other people. Asked for where two sources share names. DICOM patient ids are the same people everywhere.",
    )
    four_d: Literal["refuse", "first", "split"] = Field(
        "refuse",
        description="4-D files (NIfTI, NRRD, MetaImage): refuse them, take the first volume, or take every volume as a scan of one exam. "
        "The volumes of a DICOM series are all taken, but for `first`.",
    )
    placement: Placement | None = Field(
        None,
        description="NIfTI files whose sform and qform are both coded: which of the two places the voxels. By default they are refused "
        "where the two disagree.",
    )
    origin: str = Field("the user's own scans", description="Where they come from, fit to be published.")
    licence: str = Field("not stated", description="Their licence.")


class Identity(Config):
    """Ids are keyed hashes; the key is private unless the data are public."""

    public_key: str | None = Field(
        None, description="Only for public data: a key that anybody may know, so that ids are the same everywhere."
    )


class Preprocess(Config):
    """From a checked volume to a stored one."""

    spacing_mm: TripleMm | Literal["native", "median"] = Field("native", description="Of the stored grid.")
    keep_thick: bool = Field(
        True, description="Keep the distance of slices more than 3 times as thick as their pixels where spacing_mm would make it finer."
    )
    crop_body: bool = Field(True, description="Crop to the body's box.")
    window_hu: tuple[float, float] = Field((-1000.0, 1000.0), description="CT values that normalise to 0 and 1.")
    percentiles: tuple[float, float] = Field((0.5, 99.5), description="Of the body's voxels: MR and PET values that normalise to 0 and 1.")


class Split(Config):
    """Numbers of subject clusters with labels; every other subject is in the pool."""

    test: int = Field(ge=0, description="Clusters that neither pretraining nor tuning reads; 0 only where the study has no tasks.")
    validation: int = Field(ge=1, description="Clusters for tuning: their labels are labels too.")
    seed: int = 0


class Pool(Config):
    select: str | None = Field(None, description="Query on manifest columns that a pretraining scan must match.")
    allow_test_subjects: bool = Field(False, description="Pretrain on test subjects too; the verdict is stamped with it.")


class Search(Config):
    """The same search for each initialisation, judged on validation subjects."""

    num_labels: int = Field(8, ge=1)
    learning_rates: tuple[float, ...] = Field((1e-3,), min_length=1)
    lengths: tuple[float, ...] = Field((1.0,), min_length=1, description="Factors of the steps.")
    seeds: tuple[int, ...] = (0,)


class Initialisation(Config):
    """What a fine-tuning starts from."""

    recipe: Name | None = Field(None, description="None is training from scratch.")
    load: Literal["all", "encoder"] = "all"
    encoder_rate: float = Field(1.0, ge=0, description="Factor of the learning rate for encoder weights; 0 freezes them.")
    steps_factor: float = Field(1.0, gt=0, description="Factor of the fine-tuning steps (a control).")
    planned: bool = Field(True, description="Whether it belongs to the family that Holm's correction covers.")
    num_labels: tuple[int | Literal["all"], ...] | None = Field(None, description="Only these sizes; default: the study's.")
    tuned_as: Name | None = Field(
        None, description="Takes learning rate and length from this initialisation's search instead of searching (a control)."
    )


class Finetune(Config):
    """The fine-tuning of every initialisation: same splits, schedules and search for all."""

    num_labels: tuple[int | Literal["all"], ...] = Field((2, 8), min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    seeds_above: dict[int, tuple[int, ...]] = Field(default_factory=dict, description="Number of labels -> seeds for larger sizes.")
    steps: int = Field(150, ge=1)
    steps_above: dict[int, int] = Field(default_factory=dict, description="Number of labels -> steps for larger sizes, such as {8: 400}.")
    batch: int = Field(2, ge=1)
    size_vox: Triple = (48, 48, 48)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    warmup: float = Field(0.05, ge=0, le=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = Field(
        False,
        description="Whether tensors hold channels innermost (channels_last_3d): on a CPU faster in fp32 below 16 channels.",
    )
    threads: int = Field(1, ge=1)
    search: Search | None = None

    def settled(self, *names: str) -> dict[str, Any]:
        """As JSON values: the named settings, or all; one that is younger than kept results only where it is used."""
        dump = self.model_dump(mode="json", include=set(names) | {"channels_last"} if names else None)
        return {name: value for name, value in dump.items() if name != "channels_last" or value}


class Verdict(Config):
    """Settings of the statistics."""

    primary_max_labels: int = Field(32, ge=1, description="The primary figure is the mean Dice over sizes up to this one.")
    draws: int = Field(10_000, ge=100)
    seed: int = 0


class Tracking(Config):
    uri: str | None = Field(None, description="MLflow tracking URI; default: SQLite in the study's folder.")


class Study(Config):
    """What to run."""

    name: Name
    description: str = ""
    data: str = Field("", description="Folder that {data} stands for; `--config data=DIR` overrides it.")
    sample: dict[str, Any] | None = Field(None, description="Cohort to make or to download, such as {embedded: {}}.")
    sources: tuple[Source, ...] = Field(min_length=1)
    channels: tuple[str, ...] | None = Field(None, description="Co-registered sequences of one exam that enter as channels, in this order.")
    identity: Identity = Identity()
    shards: Annotated[int, AfterValidator(lambda n: n if n in (1, 2, 4, 8, 16, 32, 64, 128, 256) else _refuse_shards(n))] = 4
    max_refused: float = Field(
        0.9, ge=0, le=1, description="Largest share of files, and of each task's labels, that may be refused before the run stops."
    )
    preprocess: Preprocess = Preprocess()
    split: Split
    pool: Pool = Pool()
    recipes: tuple[str, ...] = Field((), description="Paths of recipes, relative to the project's root or to the study.")
    pretrain_seeds: tuple[int, ...] = Field((0,), min_length=1)
    gpus_per_run: int = Field(
        1, ge=1, description="GPUs of one machine that a pretraining uses together, a process each; no run is another one for it."
    )
    tasks: tuple[str, ...] = Field((), description="Paths of tasks.")
    initialisations: dict[Name, Initialisation] = Field(default_factory=dict)
    finetune: Finetune = Finetune()
    verdict: Verdict = Verdict()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _tasks_are_tested(self) -> Study:
        if self.tasks and self.split.test < 1:
            raise ValueError("split.test: must be at least 1, since the study has tasks; 0 is for pretraining alone")
        return self


def _pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return pattern


def _refuse_shards(number: int) -> int:
    raise ValueError(f"must be a power of two up to 256, not {number}")
