"""Examples for people: held-out crops as they were, as the network saw them, and as it gave them back."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.files import replacing
from pipeline.step import to_device
from pipeline.training.loop import Loop


@torch.no_grad()
def write_examples(loop: Loop, path: Path) -> bool:
    """Middle axial slices, uint8 (N, D, H) each, as ``target``, ``shown`` (hidden voxels grey) and ``restored`` in an npz.

    False if nothing is restored.
    """
    region = to_device((loop.judge or loop.loader).region(0), loop.device)
    loop.learner.eval()
    _, step = loop.learner.losses(region, progress=1.0, step=loop.training.steps)
    for objective in loop.learner.objectives.values():
        found = objective.restored(step)
        if found is not None:
            if not loop.ranks.leads:
                return True
            view = step.views[found[0]][0]
            shown = view.voxels if view.hidden is None else view.voxels.masked_fill(view.hidden[:, None], 0.5)
            pictures = {"target": view.target, "shown": shown, "restored": found[1]}
            with replacing(path) as temporary, temporary.open("wb") as handle:
                np.savez_compressed(handle, **{name: _slices(value) for name, value in pictures.items()})
            return True
    return False


def _slices(volumes: Tensor) -> np.ndarray:
    middle = volumes[:, 0, :, :, volumes.shape[-1] // 2]
    return (middle.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
