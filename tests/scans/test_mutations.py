"""The campaign of mutations in small: it finds nothing in the readers, and would find a voxel or a place that is wrong."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anatomy.grid import Grid

CAMPAIGNS = Path(__file__).parents[1] / "campaigns"
sys.path.insert(0, str(CAMPAIGNS))

from mutations import here, look, put  # noqa: E402
from originals import originals  # noqa: E402
from statements import agrees  # noqa: E402

KINDS = originals()


def test_a_few_mutations_end_as_they_should():
    done = subprocess.run([sys.executable, CAMPAIGNS / "mutations.py", "--count", "72", "--seed", "7"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_by_one_voxel_or_half_a_millimetre_is_not_what_the_bytes_say(kind, tmp_path):
    put(tmp_path / "in", KINDS[kind])
    (volume,), codes = look(tmp_path / "in", here)
    assert not codes
    assert agrees(kind, tmp_path / "in", volume)
    voxels = np.array(volume.voxels)
    voxels[0, 3, 4, 2] += 1
    assert not agrees(kind, tmp_path / "in", replace(volume, voxels=voxels))
    affine = volume.grid.affine.copy()
    affine[0, 3] += 0.5
    assert not agrees(kind, tmp_path / "in", replace(volume, grid=Grid(volume.grid.shape, affine)))
