"""A cheap look at what a frozen encoder knows of a labelled task while it is being pretrained: on training subjects only.

The labelled training subjects are halved by cluster. At single voxels the encoder's levels are read; a ridge regression that one half
fits tells the classes of the other half's voxels. Neither validation nor test subjects are touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.folder import StudyFolder
from pipeline.keys import key, permutation
from pipeline.manifest import read_manifest
from pipeline.plan import Plan
from pipeline.plugins import load, only, settings
from pipeline.step import Context, Network
from pipeline.transfer.labelled import LabelledVolumes
from pipeline.volumes.store import Store

MAX_SCANS = 8  # in each half
VOXELS = 64  # of each class in each scan
RIDGE = 1e-2


@dataclass(frozen=True)
class Half:
    """Crops of a half's scans: voxels (N, C, D, H, W) float32 in [0, 1], index (N, P, 3) of the voxels read, their channels (N, P).

    P is the same for all crops; where a scan has fewer voxels, the rest is -1.
    """

    voxels: Tensor
    index: Tensor
    answers: Tensor


def probe_of(plan: Plan, where: StudyFolder, run: str) -> Callable[[Network], float] | None:
    """The probe of a run: the study's first task, at the size of the recipe's crops; None if the study has no labels to train on."""
    manifest = read_manifest(where.manifest)
    labelled = manifest[(manifest["split"] == "train") & ~manifest["twin_of"].isin(set(manifest["scan_id"]))]
    size_vox = only(plan.recipes[plan.run(run).recipe]["crops"], "crops")[1]["size_vox"]
    for name, task in plan.tasks.items():
        rows = labelled[[name in json.loads(labels or "{}") for labels in labelled["labels"]]].reset_index(drop=True)
        if len(rows):
            return make_probe(name, task["kind"], rows, Store(where.store), tuple(size_vox))
    return None


def make_probe(
    task: str, kind: dict[str, Any], rows: pd.DataFrame, store: Store, size_vox: tuple[int, int, int]
) -> Callable[[Network], float] | None:
    """``score(network)``: mean over the classes of the share of their voxels that the probe names right; 0 to 1.

    ``rows`` are labelled scans of the training split; fewer than two clusters can't be halved, and there is no probe.
    """
    if set(rows["split"]) - {"train"}:
        raise ValueError(f"{task}: a probe may read training subjects only, not those of {sorted(set(rows['split']) - {'train'})}")
    clusters = sorted(set(rows["cluster_id"]), key=lambda cluster: key("probe", cluster))
    if len(clusters) < 2:
        return None
    name, values = only(kind, "kind")
    plugin = load("tasks", name)(settings("tasks", name, values), Context(len(rows), 1, 1, size_vox, 1))
    first = rows["cluster_id"].isin(clusters[::2])
    volumes = LabelledVolumes(store, task, plugin, rows)
    fitted, judged = (_half(volumes, rows[mask], size_vox) for mask in (first, ~first))
    classes = len(plugin.values)
    return lambda network: score(network, fitted, judged, classes)


def score(network: Network, fitted: Half, judged: Half, classes: int) -> float:
    """Balanced accuracy on one half of a ridge regression that the other half fits."""
    (x, y), (seen, answers) = read(network, fitted), read(network, judged)
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    x, seen = ((part - mean) / deviation for part in (x, seen))
    wanted = torch.nn.functional.one_hot(y, classes).to(x.dtype)
    weights = wanted.sum(0).clamp(min=1)[y].reciprocal()[:, None]
    wanted = wanted - 1 / classes
    gram = x.T @ (weights * x) / classes + RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    solution = torch.linalg.solve(gram, x.T @ (weights * wanted) / classes)
    named = (seen @ solution).argmax(1)
    right = [(named[answers == c] == c).double().mean() for c in range(classes) if bool((answers == c).any())]
    return round(float(torch.stack(right).mean()), 6)


def read(network: Network, half: Half) -> tuple[Tensor, Tensor]:
    """Features (n, sum of widths) float64 of a half's voxels, the nearest of each level, and their classes (n,)."""
    device = next(network.parameters()).device
    rows = []
    for voxels, index in zip(half.voxels, half.index, strict=True):
        levels = network(voxels[None].to(device), want=frozenset({"levels"})).levels
        rows.append(torch.cat([_nearest(level[0], index.to(device), *at) for level, at in zip(levels, _places(network), strict=True)], 1))
    valid = half.answers.flatten() >= 0
    return torch.cat(rows).double()[valid.to(device)], half.answers.flatten()[valid].to(device)


def _places(network: Network) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    return [(place.stride, place.offset_vox) for place in network.geometry]


def _nearest(level: Tensor, index: Tensor, stride: tuple[int, ...], offset: tuple[float, ...]) -> Tensor:
    """level (C, ...), index (P, 3) of the input -> (P, C)."""
    near = [((index[:, a] - offset[a]) / stride[a]).round().long().clamp(0, level.shape[a + 1] - 1) for a in range(3)]
    return level[:, near[0], near[1], near[2]].T.float()


def _half(volumes: LabelledVolumes, rows: pd.DataFrame, size_vox: tuple[int, int, int]) -> Half:
    scans = sorted(rows["scan_id"], key=lambda scan: key("probe", scan))[:MAX_SCANS]
    crops = [_crop(volumes, scan, size_vox) for scan in scans]
    voxels, index, answers = (torch.from_numpy(np.stack(part)) for part in zip(*crops, strict=True))
    return Half(voxels, index, answers)


def _crop(volumes: LabelledVolumes, scan: str, size_vox: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One crop around the middle of a scan's structures, and up to ``VOXELS`` voxels of every class in it."""
    places = volumes.structures(scan)
    shape, size = np.asarray(volumes.shapes[scan][1:]), np.asarray(size_vox)
    middle = np.concatenate(places).mean(0).round().astype(int) if places else shape // 2
    low = np.clip(middle - size // 2, np.minimum(0, shape - size), np.maximum(0, shape - size))
    voxels, labels = volumes.crop(scan, low, tuple(size_vox))
    channels, count = volumes.kind.targets(labels), len(volumes.kind.values)
    index, answers = np.zeros((count * VOXELS, 3), np.int64), np.full(count * VOXELS, -1)
    for channel in range(count):
        found = np.argwhere(channels == channel)
        picked = found[permutation(key("probe", scan, channel), len(found))[:VOXELS]]
        own = slice(channel * VOXELS, channel * VOXELS + len(picked))
        index[own], answers[own] = picked, channel
    return voxels.astype(np.float32), index, answers
