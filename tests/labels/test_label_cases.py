"""Every label fault case: the right label volume, voxel for voxel, or exactly its reason."""

import pytest
from segmentation_cases import CASES as SEGMENTATIONS
from structure_set_cases import CASES as STRUCTURE_SETS

CASES = SEGMENTATIONS | STRUCTURE_SETS


def test_no_name_stands_twice():
    assert len(CASES) == len(SEGMENTATIONS) + len(STRUCTURE_SETS)


@pytest.mark.parametrize("name", CASES)
def test_labels_are_right_or_refused_with_their_reason(name, tmp_path) -> None:
    assert CASES[name].verdict(tmp_path) == ""
