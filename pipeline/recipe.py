"""Recipe: what a pretraining run is, without its seed. Frozen values from YAML.

Settings of plug-ins stand as keyed mappings, ``{unet: {widths: [...]}}``, and are validated by that plug-in's own Config; what a
``Recipe`` holds afterwards is complete: every default is written out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.configuration import Name, Triple
from pipeline.plugins import Config, one_of, only, settings


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
    channels_last: bool = Field(
        False,
        description="Whether tensors hold channels innermost (channels_last_3d): on a CPU faster in fp32 below 16 channels.",
    )
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
    network: Annotated[dict[str, Any], one_of("networks")]
    crops: Annotated[dict[str, Any], one_of("crops")]
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
