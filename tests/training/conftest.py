"""The toy training of ``toy.py``, run once without interruption for all tests of a file that compare with it."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "campaigns")]
import toy  # noqa: E402


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return toy.make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def whole(stored, tmp_path_factory):
    """The uninterrupted run, by number of ranks: (digest, journal)."""
    found = {}
    for world in (1, 2):
        folder = tmp_path_factory.mktemp(f"whole{world}")
        assert toy.train(stored, folder, world) == [0] * world, toy.said(folder)
        found[world] = (toy.final(folder), toy.entries(folder))
    return found


@pytest.fixture
def resumes(stored, tmp_path, whole):
    """``resumes(world)``: called again without faults, the run in ``tmp_path`` ends as the uninterrupted one."""

    def check(world=1):
        assert toy.train(stored, tmp_path, world) == [0] * world, toy.said(tmp_path)
        assert toy.final(tmp_path) == whole[world][0]
        assert toy.entries(tmp_path) == whole[world][1]

    return check
