"""Every DICOM fault case: the right volume, or exactly its reason."""

import pytest
from faults.cases import cases
from faults.outcome import read_folder

CASES = cases("dicom")


@pytest.mark.parametrize("name", CASES)
def test_a_series_is_read_right_or_refused_with_its_reason(name, tmp_path) -> None:
    case = CASES[name]
    if case.lacks:
        pytest.skip(f"{case.lacks}: not installed, and the case is built with it")
    case.build(tmp_path / "in")
    assert case.verdict(read_folder(tmp_path / "in")) == ("right" if case.volumes else "refused")
