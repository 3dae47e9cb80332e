"""Study (what to run), Recipe (what a pretraining run is), Task (what transfer is measured on): frozen values from YAML.

Settings of plug-ins stand as keyed mappings, ``{unet: {widths: [...]}}``, and are validated by that plug-in's own Config; what a
``Recipe`` holds afterwards is complete: every default is written out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from pipeline.plugins import Config, only, settings

if TYPE_CHECKING:
    from pipeline.labels.rule import Rule

MAX_YAML_BYTES = 1_000_000
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,47}$")]
Triple = tuple[int, int, int]
TripleMm = tuple[float, float, float]


def _complete(folder: str) -> Any:
    def complete(value: Any) -> dict[str, Any]:
        name, values = only(value, folder)
        return {name: settings(folder, name, values).model_dump(mode="json")}

    return BeforeValidator(complete)


def _complete_each(folder: str) -> Any:
    def complete(value: dict[str, Any]) -> dict[str, Any]:
        return {name: settings(folder, name, values or {}).model_dump(mode="json") for name, values in value.items()}

    return BeforeValidator(complete)


def _complete_views(value: dict[str, Any]) -> dict[str, Any]:
    complete: dict[str, Any] = {}
    for instance, mapping in value.items():
        name, values = only(mapping, f"views.{instance}")
        complete[instance] = {name: settings("views", name, values).model_dump(mode="json")}
    return complete


class Training(Config):
    """The loop of one run. The same keys serve pretraining and fine-tuning."""

    steps: int = Field(1000, ge=1, description="Optimiser steps.")
    batch: int = Field(8, ge=1, description="Crops a step, over all ranks.")
    micro_batch: int | None = Field(
        None, ge=1, description="Crops that a rank puts through the network at once; null: its whole share of the batch."
    )
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(1e-2, ge=0, description="Decoupled weight decay; none on norms and biases.")
    warmup: float = Field(0.05, ge=0, le=1, description="Share of the steps with a linear rise; a cosine to zero follows.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient; a larger one is scaled down to it.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Of the network; losses that need it stay in fp32.")
    compile: bool = Field(
        False, description="Whether torch.compile makes kernels for the network; needs a compiler, and minutes at the start."
    )
    channels_last: bool = Field(False, description="Whether the network's tensors hold channels innermost (channels_last_3d).")
    graphs: Literal["auto", "off"] = Field(
        "auto",
        description="auto: on a GPU, views are replayed from CUDA graphs, with the same bits; off: they are computed kernel by kernel.",
    )
    shard: Literal["none", "full"] = Field(
        "none", description="full: each rank keeps a part of the network's weights (FSDP2), for networks that do not fit on one GPU."
    )
    timeout_s: float = Field(300.0, gt=0, description="Longest wait of a rank for another before the training ends.")
    checkpoint_every: int = Field(100, ge=1, description="Steps between checkpoints.")
    journal_every: int = Field(10, ge=1, description="Steps between lines of the journal.")
    evaluate_every: int = Field(100, ge=1, description="Steps between evaluations on validation subjects.")
    threads: int = Field(1, ge=1, description="CPU threads; part of what 'bit-equal' means.")
    on_alarm: Literal["note", "stop"] = Field("note", description="What follows an alarm of pretraining: a line, or the end of the run.")
    probe_every: int = Field(
        100, ge=1, description="Steps between probes of pretraining on labelled training subjects, where the study has a task."
    )
    spikes: Literal["note", "skip"] = Field(
        "note", description="What follows a loss above median + 6 MAD of the last 200 steps: a line in the journal, or a skipped step."
    )
    max_unread: float = Field(
        0.001, ge=0, le=1, description="Share of the run's crops that others may take the place of because they cannot be read."
    )
    patience_s: float = Field(600.0, gt=0, description="Longest time without progress before a run ends with an error that says where.")


# Settings of the first release name a run in any case; later ones only where they are used, so that a new one renames no run. Those that
# change no weight never do.
_FIRST = ("steps", "batch", "learning_rate", "weight_decay", "warmup", "clip", "precision", "checkpoint_every", "journal_every",
          "evaluate_every", "threads")  # fmt: skip
_NO_WEIGHT = ("max_unread", "patience_s", "timeout_s", "on_alarm", "probe_every")


def settled(recipe: dict[str, Any]) -> dict[str, Any]:
    """Of a recipe, as JSON values with every default, what names its runs and tells their checkpoints from others'."""
    usual = Training().model_dump(mode="json")
    training = {
        name: value for name, value in recipe["training"].items() if name in _FIRST or (name not in _NO_WEIGHT and value != usual.get(name))
    }
    return {**recipe, "training": training}


class Words(Config):
    """How visual words are found in the embeddings of another recipe's runs (the lexicon's settings)."""

    encoder: Name = Field(description="Recipe whose run with the same seed finds the words.")
    num_words: int = Field(32, ge=2, description="Words in the lexicon, all sizes together.")
    sizes_vox: tuple[Triple, ...] = Field(min_length=1, description="Crop sizes of the words, a scale each.")
    neighbours: float = Field(0.5, gt=0, le=1, description="Share of the training scans nearest to a word's reference that carry the word.")
    min_confidence: float = Field(0.0, ge=0, le=1, description="Instances below it are left out.")


class Recipe(Config):
    """What one pretraining run is, without its seed."""

    name: Name
    description: str = ""
    network: Annotated[dict[str, Any], _complete("networks")]
    crops: Annotated[dict[str, Any], _complete("crops")]
    views: Annotated[dict[str, Any], BeforeValidator(_complete_views)] = Field(min_length=1, json_schema_extra={"minProperties": 1})
    objectives: Annotated[dict[str, Any], _complete_each("objectives")] = Field(min_length=1, json_schema_extra={"minProperties": 1})
    training: Training = Training()
    words: Words | None = Field(None, description="Needed by crops and objectives that use visual words.")
    start: Name | None = Field(None, alias="from", description="Recipe whose run with the same seed this one continues.")

    @model_validator(mode="after")
    def _objectives_name_views(self) -> Recipe:
        for objective, values in self.objectives.items():
            for key, view in values.items():
                named = [view] if key == "view" else list(view) if key == "views" else []
                for instance in named:
                    if instance not in self.views:
                        raise ValueError(f"objectives.{objective}.{key}: no view is called {instance!r}; there are {', '.join(self.views)}")
        if "visual_words" in self.objectives and self.words is None:
            raise ValueError("words: is missing, but objectives.visual_words needs it; add `words: {encoder: RECIPE, sizes_vox: [[...]]}`")
        return self


Class = Annotated[int | str, Field(description="A class, by its label value or its name.")]


class Task(Config):
    """What transfer is measured on. Names of segments are free text of the user's: they stay in this file and in the private folder."""

    name: Name
    description: str = ""
    labels: str = Field(
        "",
        description="Folder of label volumes, one for each labelled image and of the same name, or of DICOM segmentations and structure "
        "sets, which belong to the image that they refer to. Without it, the DICOM ones found among the scans. {data} is the study's data.",
    )
    segments: dict[Class, tuple[str, ...]] | None = Field(
        None,
        description="Of DICOM labels: class -> names of its segments or regions of interest; * and ? stand for any letters, case does not "
        "matter, code:SCHEME:VALUE is the coded type. 0 (background) lists what is left out. Default: classes have their segments' names.",
    )
    may_be_absent: tuple[Class, ...] = Field(
        (), description="Classes that a patient may not have: no segment, or an empty one, is no error."
    )
    on_top: tuple[Class, ...] = Field((), description="Classes that lie over all others where DICOM segments overlap, the topmost first.")
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Voxels of a fractional DICOM segmentation from this share on are inside; without it such are refused.",
    )
    kind: Annotated[dict[str, Any], _complete("tasks")]

    @model_validator(mode="after")
    def _classes_are_known(self) -> Task:
        classes = self.classes()
        for key in ("segments", "may_be_absent", "on_top"):
            for item in getattr(self, key) or ():
                if _value_of(item, classes) is None:
                    told = ", ".join(f"{value}: {name}" for value, name in classes.items()) or "none"
                    raise ValueError(f"{key}: {item!r} is no class under `kind`; there are {told}")
        return self

    def classes(self) -> dict[int, str]:
        """Label value -> name."""
        return {int(value): name for value, name in next(iter(self.kind.values())).get("classes", {}).items()}

    def rule(self) -> Rule:
        """How DICOM labels become label values."""
        from pipeline.labels.rule import rule_of

        classes = self.classes()
        values = {key: tuple(_value_of(item, classes) for item in getattr(self, key)) for key in ("may_be_absent", "on_top")}
        segments = None if self.segments is None else {_value_of(item, classes): names for item, names in self.segments.items()}
        return rule_of(classes, segments, **values, threshold=self.threshold)

    def settings(self) -> dict[str, Any]:
        """All of it, but for what says how DICOM labels are read where that is not said."""
        unset = {key for key in READ_LABELS if getattr(self, key) == type(self).model_fields[key].default}
        return self.model_dump(mode="json", exclude=unset)


READ_LABELS = ("segments", "may_be_absent", "on_top", "threshold")  # what a label volume holds afterwards has a digest of its own


def _value_of(item: int | str, classes: dict[int, str]) -> int | None:
    """The label value of a class by its value or its name; 0 is the background."""
    named = {name: value for value, name in classes.items()} | {"background": 0}
    if item in named:
        return named[item]
    value = int(item) if str(item).isdecimal() else -1
    return value if value in classes or value == 0 else None


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
        description="4-D NIfTI files: refuse them, take the first volume, or take every volume as a scan of one exam.",
    )
    placement: Literal["sform", "qform"] | None = Field(
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

    test: int = Field(ge=1, description="Clusters that neither pretraining nor tuning reads.")
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
    threads: int = Field(1, ge=1)
    search: Search | None = None


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
    max_refused: float = Field(0.9, ge=0, le=1, description="Largest share of files that may be refused before the run stops.")
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


def _pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return pattern


def _refuse_shards(number: int) -> int:
    raise ValueError(f"must be a power of two up to 256, not {number}")


def read_yaml(path: Path | str) -> dict[str, Any]:
    """A mapping from a small YAML file without tags and aliases; anything else is a ``ValueError`` that names the file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.stat().st_size > MAX_YAML_BYTES:
        raise ValueError(f"{path}: is larger than {MAX_YAML_BYTES} bytes, so it is no configuration")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.tokens.AliasToken | yaml.tokens.AnchorToken) for token in yaml.scan(text)):
            raise ValueError(f"{path}: uses YAML anchors or aliases; write the values out")
        value = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no valid YAML: {error}") from error
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply, so it is no configuration") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold a mapping of keys to values")
    return value


def read_config(path: Path | str, kind: type[Config]) -> Any:
    """A Study, Recipe or Task; each wrong key is one line ``file: key: what is wrong``."""
    value = read_yaml(path)
    value.setdefault("name", Path(path).stem.replace("-", "_"))
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ValueError("\n".join(_line(path, item) for item in error.errors())) from error


def _line(path: Path | str, item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "is not a key here; check its spelling (`vesalius schema` writes the list of keys)"
    return f"{path}: {where}: {message}"
