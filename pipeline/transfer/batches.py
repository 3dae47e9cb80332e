"""Batches of fine-tuning: the same crops and the same augmentation for every initialisation.

Every draw is a function of (seed, number of the sample): which scan, whether and at which structure the crop is centred, where it
lies, its gamma and its scale. There are no flips, since left and right may be different classes.
"""

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import fold, key, permutation, uniform
from pipeline.transfer.labelled import LabelledVolumes

AT_STRUCTURE = 1 / 3  # share of crops centred on a voxel of a structure
GAMMA = 0.3  # exponent e^u, u uniform in -0.3 .. 0.3
SCALE = 0.1  # factor 1 + u, u uniform in -0.1 .. 0.1


class Batches:
    """``batch(step)`` is (x (B, C, *size) float32 in [0, 1], y (B, *size) int64 output channels)."""

    def __init__(
        self, volumes: LabelledVolumes, scan_ids: list[str], size_vox: tuple[int, int, int], batch: int, num_steps: int, seed: int
    ) -> None:
        self.volumes, self.scan_ids, self.size_vox, self.per_step, self.seed = volumes, scan_ids, tuple(size_vox), batch, seed
        samples = torch.arange(batch * num_steps, dtype=torch.int64)
        self.drawn = uniform(fold(samples ^ key(seed, "finetune"), "crops"), 8).numpy().astype(np.float64)
        epochs = range(math.ceil(len(samples) / len(scan_ids)))
        self.order = np.concatenate([permutation(key(seed, "order", epoch), len(scan_ids)) for epoch in epochs])

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        pairs = [self._sample(step * self.per_step + number) for number in range(self.per_step)]
        voxels, labels = (np.stack(part) for part in zip(*pairs, strict=True))
        drawn = torch.from_numpy(self.drawn[step * self.per_step : (step + 1) * self.per_step, 6:8]).to(torch.float32)
        return brightened(torch.from_numpy(voxels), drawn), torch.from_numpy(self.volumes.kind.targets(labels))

    def place(self, sample: int) -> tuple[str, np.ndarray]:
        """Scan and lower corner (3,) of a sample's crop. It stays within the volume; a shorter axis lies somewhere in the crop."""
        scan_id = self.scan_ids[self.order[sample]]
        drawn = self.drawn[sample]
        size, shape = np.asarray(self.size_vox), np.asarray(self.volumes.shapes[scan_id][1:])
        least, most = np.minimum(0, shape - size), np.maximum(0, shape - size)
        structures = self.volumes.structures(scan_id) if drawn[0] < AT_STRUCTURE else []
        if structures:
            voxels = structures[int(drawn[1] * len(structures))]
            return scan_id, np.clip(voxels[int(drawn[2] * len(voxels))] - size // 2, least, most)
        return scan_id, least + np.floor(drawn[3:6] * (most - least + 1)).astype(np.int64)

    def _sample(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        return self.volumes.crop(*self.place(sample), self.size_vox)


def brightened(voxels: Tensor, drawn: Tensor) -> Tensor:
    """voxels (B, C, D, H, W) in [0, 1] and drawn (B, 2) in [0, 1) -> x^gamma * scale, in [0, 1]; one gamma and scale a sample."""
    gamma, scale = (2 * drawn - 1).unbind(1)
    shape = (-1, 1, 1, 1, 1)
    return (voxels ** torch.exp(GAMMA * gamma).view(shape) * (1 + SCALE * scale).view(shape)).clamp_(0, 1)
