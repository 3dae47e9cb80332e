"""Crops at random places of the body."""

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from anatomy.grid import Grid
from pipeline import plugins
from pipeline.crops._crop import Crop, Order, within
from pipeline.keys import key, uniform
from pipeline.manifest import grid_of


class Random:
    """Every scan once an epoch; the centre is uniform in the body's box, moved inside so that the crop holds as much scan as it can."""

    class Config(plugins.Config):
        """Settings of random crops."""

        size_vox: tuple[int, int, int] = Field(description="Crop that the network sees, in stored voxels.")

    def __init__(self, config: Config, rows: pd.DataFrame, lexicon: pd.DataFrame | None, seed: int) -> None:
        self.config, self.seed = config, seed
        self.order = Order(len(rows), seed)
        self.boxes = [body_box_vox(grid_of(row), row["body_low_mm"], row["body_high_mm"]) for _, row in rows.iterrows()]
        self.shapes = [tuple(shape) for shape in rows["shape"]]

    def __len__(self) -> int:
        return len(self.shapes)

    def draw(self, sample: int) -> Crop:
        """A pure function of (seed, sample)."""
        row = self.order(sample)
        low, high = self.boxes[row]
        draw = uniform(torch.tensor([key(self.seed, "centre", sample)]), 3)[0].numpy()
        centre = np.floor(low + draw * (high - low + 1)).astype(int)
        return Crop(row, within(centre, self.config.size_vox, self.shapes[row]), tuple(self.config.size_vox))


def body_box_vox(grid: Grid, low_mm: np.ndarray, high_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index box (low, high), both inside the grid, of a box in RAS+ mm."""
    ends = np.array(np.meshgrid(*zip(low_mm, high_mm, strict=True), indexing="ij")).reshape(3, 8).T
    index = grid.index(ends)
    last = np.asarray(grid.shape) - 1
    return np.clip(np.floor(index.min(0)), 0, last), np.clip(np.ceil(index.max(0)), 0, last)
