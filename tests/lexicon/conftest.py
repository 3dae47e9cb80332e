"""A cohort of phantoms: smooth noise, scaled, moved and bent from scan to scan, so that the true place of anything is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from pipeline.volumes.store import Store

BODY_MM = np.array([36.0, 40.0, 32.0])  # of the template, from 0
NUM_TRAIN, NUM_HELD = 6, 2


def draw_template():
    """(40, 44, 36) in [0, 1] at 1 mm: smooth noise."""
    noise = gaussian_filter(np.random.default_rng(7).standard_normal((40, 44, 36)), 2.5)
    return np.clip(0.5 + 0.2 * noise / noise.std(), 0, 1)


TEMPLATE = draw_template()


class Phantom:
    """One scan: template place = (place - low) / scale, bent by up to 2 mm within the body."""

    def __init__(self, number):
        rng = np.random.default_rng(number)
        self.scale = rng.uniform(0.9, 1.15, 3)
        self.low_vox, self.high_vox = rng.integers(0, 7, 3), rng.integers(0, 7, 3)
        self.origin = rng.uniform(-50, 50, 3).round(1)
        self.bend, self.phase = rng.uniform(-2, 2, 3), rng.uniform(0, np.pi, 3)
        self.size = np.ceil(BODY_MM * self.scale).astype(int)
        self.shape = tuple(int(n) for n in self.low_vox + self.size + self.high_vox)
        self.affine = np.eye(4)
        self.affine[:3, 3] = self.origin
        self.low_mm = self.origin + self.low_vox

    def template(self, places_mm):
        """(..., 3) RAS+ mm -> (..., 3) template mm."""
        share = (places_mm - self.low_mm) / (BODY_MM * self.scale)
        bend = self.bend * np.sin(np.pi * share) * np.sin(np.pi * share[..., [1, 2, 0]] + self.phase)
        return share * BODY_MM + bend

    def voxels(self, seed):
        places = np.stack(np.meshgrid(*[np.arange(n) for n in self.shape], indexing="ij"), -1) + self.origin
        inside = ((places >= self.low_mm) & (places < self.low_mm + BODY_MM * self.scale)).all(-1)
        seen = map_coordinates(TEMPLATE, np.moveaxis(self.template(places), -1, 0), order=1, mode="nearest")
        noise = np.random.default_rng(seed).normal(0, 0.02, self.shape)
        return (1000 * (seen + noise) * inside).astype(np.int16)[None], inside


def build(root):
    """Store, manifest rows, phantom by scan_id."""
    store, rows, phantoms = Store(root / "store"), [], {}
    for number in range(NUM_TRAIN + NUM_HELD):
        phantom = Phantom(number)
        scan = f"scan{number:012d}"
        voxels, body = phantom.voxels(number)
        affine = phantom.affine.ravel().tolist()
        meta = {"spacing_mm": [1, 1, 1], "affine": affine, "window_low": [0], "window_high": [1000], "slope": 1.0, "inter": 0.0}
        store.write(scan, voxels, body, meta)
        rows.append({
            "scan_id": scan, "exam_id": scan, "subject_id": scan, "cluster_id": scan, "channels": '["T1"]', "modality": "MR",
            "spacing_mm": [1.0] * 3, "shape": list(phantom.shape), "affine": affine,
            "body_low_mm": (phantom.low_mm - 0.5).tolist(), "body_high_mm": (phantom.low_mm + phantom.size - 0.5).tolist(),
            "window_low": [0.0], "window_high": [1000.0], "slope": 1.0, "inter": 0.0, "digest": f"digest{number}",
            "split": "train" if number < NUM_TRAIN else "validation", "labels": "{}", "origin": "made here", "licence": "none",
            "twin_of": "",
        })  # fmt: skip
        phantoms[scan] = phantom
    return store, pd.DataFrame(rows), phantoms


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    return build(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture(scope="session")
def embeddings(cohort):
    """(N, 16) random: the phantoms differ in nothing that an embedding should tell."""
    return np.random.default_rng(3).normal(size=(len(cohort[1]), 16)).astype(np.float32)
