"""A study of eight volumes of 24^3 with two structures that can be seen, and a pretraining run of random weights."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.keys import initialise
from pipeline.manifest import manifest_digest, read_manifest, write_manifest
from pipeline.plan import Plan, Run, Transfer, plan_json
from pipeline.plugins import load, settings
from pipeline.step import Context
from pipeline.study import Initialisation, Study
from pipeline.volumes.store import Store

NETWORK = {"unet": settings("networks", "unet", {"widths": [4, 8], "skips": False}).model_dump(mode="json")}
SPLITS = {
    "a0": "train",
    "a1": "train",
    "a2": "train",
    "a3": "train",
    "v0": "validation",
    "v1": "validation",
    "t0": "test",
    "t1": "test",
    "t2": "test",
}
TASK = "tissue"
RUN = "restoration-s0-0123456789"


def volume(number):
    """Two boxes of different brightness at a place of their own: voxels (1, 24, 24, 24) int16, labels uint8."""
    generator = np.random.default_rng(number)
    labels = np.zeros((24, 24, 24), np.uint8)
    low = generator.integers(2, 8, 3)
    labels[tuple(slice(a, a + 8) for a in low)] = 1
    labels[low[0] + 9 : low[0] + 14, low[1] : low[1] + 8, low[2] : low[2] + 8] = 2
    voxels = 200 + 300 * labels.astype(np.float64) + 20 * generator.standard_normal(labels.shape)
    return voxels.astype(np.int16)[None], labels


def row(scan_id, split):
    return {
        "scan_id": scan_id, "exam_id": scan_id, "subject_id": f"s{scan_id}", "cluster_id": f"c{scan_id}", "channels": '["T1"]',
        "modality": "MR",
        "spacing_mm": [1.0] * 3, "shape": [24] * 3, "affine": np.eye(4).ravel().tolist(), "body_low_mm": [0.0] * 3,
        "body_high_mm": [24.0] * 3,
        "window_low": [0.0], "window_high": [1000.0], "slope": [1.0], "inter": [0.0], "digest": f"d{scan_id}", "split": split,
        "labels": json.dumps({TASK: [0, 1, 2]}), "origin": "made here", "licence": "none", "twin_of": "",
    }  # fmt: skip


def write_run(where, run, seed=0, clusters=("ca0", "ca1", "ca2", "ca3")):
    network = load("networks", "unet")(settings("networks", "unet", NETWORK["unet"]), Context(1, 1, 1, (16, 16, 16), 1))
    initialise(network, 1000 + seed)
    folder = where.run(run)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    save_file({n: v for n, v in state.items() if n.startswith("encoder.")}, folder / "encoder.safetensors")
    write_json(folder / "run.json", {"clusters": list(clusters), "manifest_digest": manifest_digest(read_manifest(where.manifest))})


def study(primary=32, **finetune):
    values = {"num_labels": [1, "all"], "seeds": [0, 1], "steps": 4, "batch": 2, "size_vox": [16, 16, 16], **finetune}
    return Study.model_validate({
        "name": "tiny", "sources": [{"path": "scans"}], "split": {"test": 3, "validation": 2}, "finetune": values,
        "verdict": {"draws": 200, "primary_max_labels": primary},
        "initialisations": {"scratch": {}, "restoration": {"recipe": "restoration"}, "frozen": {"recipe": "restoration", "load": "encoder",
                            "encoder_rate": 0, "planned": False}},
    })  # fmt: skip


def make_plan(root, value=None, **changes):
    value = value or study()
    names = list(value.initialisations)
    plan = Plan(
        version="0", study=value.model_dump(mode="json"),
        recipes={"restoration": {"network": NETWORK, "training": {"steps": 7}, "from": None, "words": None}},
        tasks={TASK: {"name": TASK, "labels": "labels", "kind": {"segmentation": {"classes": {"1": "grey", "2": "white"}}}}},
        shards=("00",), runs=(Run(RUN, "restoration", 0, None, None, ()),), lexicons=(),
        transfers=tuple(Transfer(f"{TASK}-{n}-x", TASK, n, () if n == "scratch" else (RUN,), n != "frozen") for n in names),
        comparisons=tuple(
            {"task": TASK, "initialisation": n, "against": "scratch", "planned": n != "frozen"} for n in names if n != "scratch"
        ),
        inputs={}, results=str(root),
    )  # fmt: skip
    plan = replace(plan, **changes)
    write_json(root / "plan.json", plan_json(plan))
    return plan


@pytest.fixture
def tiny(tmp_path):
    """(plan, folder) of a study that is ready to be fine-tuned."""
    where = StudyFolder(tmp_path)
    store = Store(where.store)
    meta = {
        "spacing_mm": [1.0] * 3,
        "affine": np.eye(4).ravel().tolist(),
        "window_low": [0.0],
        "window_high": [1000.0],
        "slope": [1.0],
        "inter": [0.0],
    }
    for number, scan_id in enumerate(SPLITS):
        voxels, labels = volume(number)
        store.write(scan_id, voxels, np.ones(labels.shape, bool), meta, {TASK: labels})
    write_manifest(pd.DataFrame([row(scan_id, split) for scan_id, split in SPLITS.items()]), where.manifest)
    write_run(where, RUN)
    return make_plan(tmp_path), where


@pytest.fixture
def control(tmp_path):
    """A study of scratch and of a control that trains three times as long, tuned as scratch was."""
    value = study(search={"num_labels": 2, "learning_rates": [1e-5, 3e-2], "lengths": [1, 2], "seeds": [0]}, num_labels=[2], seeds=[0])
    longer = Initialisation(steps_factor=3, tuned_as="scratch", planned=False)
    value = value.model_copy(update={"initialisations": {"scratch": Initialisation(), "longer": longer}})
    scratch, after = (Transfer(f"{TASK}-{name}-x", TASK, name, (), False) for name in value.initialisations)
    return make_plan(tmp_path, value, transfers=(scratch, replace(after, after=scratch.transfer)))


@pytest.fixture
def replan(tmp_path):
    """The same study with other settings of ``finetune`` (and ``primary``, the largest size of the primary figure)."""
    return lambda **changes: make_plan(tmp_path, study(**changes))
