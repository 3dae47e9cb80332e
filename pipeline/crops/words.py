"""Crops at visual words (Haghighi et al., IEEE TMI 2021): as many of each word, from the subjects that carry it."""

from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from anatomy.grid import Grid
from pipeline import plugins
from pipeline.crops._crop import Crop, Word, within
from pipeline.keys import key, numbers, permutation
from pipeline.manifest import grid_of

Factor = Annotated[float, Field(gt=0)]


class Words:
    """Each epoch is a permutation of the words; the scan is drawn among the word's instances, by their confidence.

    A word's crop has the shape of ``size_vox`` and the word's own size: the geometric mean of its edges is ``size_mm``. Some crops show
    it exactly, the others are moved and read larger or smaller (the paper's multi-resolution crops).
    """

    class Config(plugins.Config):
        """Settings of crops at words."""

        size_vox: tuple[int, int, int] = Field(description="Crop that the network sees, in stored voxels.")
        exact: float = Field(0.34, ge=0, le=1, description="Share of the crops that show the word exactly.")
        shift: float = Field(0.15, ge=0, lt=0.5, description="Largest move of the other crops along each axis, as a share of the edge.")
        scale: tuple[Factor, Factor] = Field((0.8, 1.25), description="Smallest and largest factor of their edges; log-uniform.")

        @model_validator(mode="after")
        def _scale_rises(self) -> "Words.Config":
            if self.scale[0] > self.scale[1]:
                raise ValueError("scale: the smallest factor must not exceed the largest")
            return self

    def __init__(self, config: Config, rows: pd.DataFrame, lexicon: pd.DataFrame | None, seed: int) -> None:
        if lexicon is None:
            raise ValueError("crops.words: the run has no lexicon; add `words: {encoder: RECIPE, ...}` to the recipe")
        self.config, self.seed = config, seed
        grids = [grid_of(row) for _, row in rows.iterrows()]
        self.shapes = [grid.shape for grid in grids]
        place = {scan: number for number, scan in enumerate(rows["scan_id"])}
        known = lexicon[lexicon["scan_id"].isin(place)]
        if known.empty:
            raise ValueError("crops.words: the lexicon has no word in any of these scans; run `vesalius discover` again")
        self.instances = known.assign(row=known["scan_id"].map(place)).sort_values(["word_id", "row"], ignore_index=True)
        self.words = sorted({int(word) for word in self.instances["word_id"]})
        by_word = self.instances.groupby("word_id").indices
        self.of_word = {word: by_word[word] for word in self.words}
        sure = self.instances["confidence"].to_numpy(np.float64) + 1e-6
        self.sure = {word: np.cumsum(sure[numbers]) / sure[numbers].sum() for word, numbers in self.of_word.items()}
        self.of_row = self.instances.groupby("row").indices
        self.log_scale = np.log(config.scale)
        self.mm = self.instances[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float64)
        columns = [self.instances[name].tolist() for name in ("word_id", "x_mm", "y_mm", "z_mm", "size_mm", "confidence")]
        self.entries: list[Word] = list(zip(*columns, strict=True))
        self.rows = self.instances["row"].tolist()
        self.index_vox, self.edges_vox = np.empty_like(self.mm), np.empty_like(self.mm)  # centre and edges in voxels of the own scan
        for row, numbers_of in self.of_row.items():
            self.index_vox[numbers_of] = grids[row].index(self.mm[numbers_of])
            self.edges_vox[numbers_of] = [self._edges_vox(grids[row], self.entries[number][4]) for number in numbers_of]
        self._known: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.instances)

    def draw(self, sample: int) -> Crop:
        """A pure function of (seed, sample)."""
        word = self._word(sample)
        draw = numbers(key(self.seed, "word", sample), 6).astype(np.float64)
        carriers, sure = self.of_word[word], self.sure[word]
        number = int(carriers[min(int(np.searchsorted(sure, draw[0], side="right")), len(carriers) - 1)])
        row = self.rows[number]
        centre, read = self.index_vox[number], self.edges_vox[number]
        if draw[1] >= self.config.exact:
            low, high = self.log_scale
            centre = centre + (2 * draw[3:] - 1) * self.config.shift * read
            read = read * np.exp(low + draw[2] * (high - low))
        read_vox = tuple(max(1, round(n)) for n in read.tolist())
        centre_vox = within(map(round, centre.tolist()), read_vox, self.shapes[row])
        return Crop(row, centre_vox, read_vox, (self.entries[number], *self._others(row, number, centre_vox, read_vox)))

    def _word(self, sample: int) -> int:
        epoch, place = divmod(sample, len(self.words))
        known = self._known  # one tuple, so that a reading thread never sees the order of another epoch
        if known is None or known[0] != epoch:
            known = (epoch, permutation(key(self.seed, "words", epoch), len(self.words)))
            self._known = known
        return self.words[int(known[1][place])]

    def _edges_vox(self, grid: Grid, size_mm: float) -> np.ndarray:
        """(3,) edges of a word's crop in voxels of a scan."""
        size = np.asarray(self.config.size_vox, dtype=np.float64)
        return size * (size_mm / np.cbrt((size * grid.spacing_mm).prod()))

    def _others(self, row: int, number: int, centre_vox: tuple[int, ...], read_vox: tuple[int, ...]) -> tuple[Word, ...]:
        """The other words whose places lie in the crop, nearest first."""
        others = self.of_row[row]
        low = np.asarray(centre_vox) - np.asarray(read_vox) // 2 - 0.5
        index = self.index_vox[others]
        inside = others[((index >= low) & (index < low + read_vox)).all(1) & (others != number)]
        distance = ((self.mm[inside] - self.mm[number]) ** 2).sum(1)
        return tuple(self.entries[n] for n in inside[np.argsort(distance, kind="stable")])
