"""Every NIfTI, NRRD and MetaImage case: the right volume, or exactly its reason."""

import pytest
from faults.metaimage import METAIMAGE
from faults.nifti_header import HEADER
from faults.nifti_stream import STREAM
from faults.nifti_values import VALUES
from faults.nrrd import NRRD
from faults.outcome import read_tree

CASES = {**STREAM, **HEADER, **VALUES, **NRRD, **METAIMAGE}


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_read_right_or_refused_with_its_reason(name, tmp_path) -> None:
    case = CASES[name]
    case.build(tmp_path / "in")
    assert case.verdict(read_tree(tmp_path / "in")) == ("right" if case.volumes else "refused")
