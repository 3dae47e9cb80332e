"""Crops at random places of the body."""

import numpy as np
import pandas as pd
from pydantic import Field

from anatomy.grid import Grid
from pipeline import plugins
from pipeline.crops._crop import Crop, Order, within
from pipeline.keys import key, numbers
from pipeline.manifest import grid_of


class Random:
    """Every scan once an epoch; the centre is uniform in the body's box, moved inside so that the crop holds as much scan as it can.

    With ``per_read`` = k, k samples in a row lie in one scan, around one such centre, and a scan comes k times in k epochs: an
    epoch sees a k-th of the scans, a batch a k-th of the subjects. Two of the k overlap along an axis by ``size - reach`` or more.
    """

    class Config(plugins.Config):
        """Settings of random crops."""

        size_vox: tuple[int, int, int] = Field(description="Crop that the network sees, in stored voxels.")
        per_read: int = Field(1, ge=1, description="Crops that are taken from one place of a scan and read together.")
        reach_vox: int = Field(16, ge=0, description="How far apart along each axis the centres of such crops may lie.")

    def __init__(self, config: Config, rows: pd.DataFrame, lexicon: pd.DataFrame | None, seed: int) -> None:
        self.config, self.seed = config, seed
        self.order = Order(len(rows), seed)
        self.boxes = [body_box_vox(grid_of(row), row["body_low_mm"], row["body_high_mm"]) for _, row in rows.iterrows()]
        self.shapes = [tuple(shape) for shape in rows["shape"]]

    def __len__(self) -> int:
        return len(self.shapes)

    def draw(self, sample: int) -> Crop:
        """A pure function of (seed, sample)."""
        config, read = self.config, sample // self.config.per_read
        row = self.order(read)
        low, high = self.boxes[row]
        centre = np.floor(low + numbers(key(self.seed, "centre", read), 3) * (high - low + 1)).astype(int)
        if config.per_read > 1:
            moved = numbers(key(self.seed, "near", sample), 3) * (config.reach_vox + 1)
            centre = np.clip(centre + np.floor(moved).astype(int) - config.reach_vox // 2, low, high)
        return Crop(row, within(centre, config.size_vox, self.shapes[row]), tuple(config.size_vox))


def body_box_vox(grid: Grid, low_mm: np.ndarray, high_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index box (low, high), both inside the grid, of a box in RAS+ mm."""
    ends = np.array(np.meshgrid(*zip(low_mm, high_mm, strict=True), indexing="ij")).reshape(3, 8).T
    index = grid.index(ends)
    last = np.asarray(grid.shape) - 1
    return np.clip(np.floor(index.min(0)), 0, last), np.clip(np.ceil(index.max(0)), 0, last)
