"""Real structure sets and a real segmentation, as clinics and archives wrote them. Skipped where the data are absent."""

from pathlib import Path

import numpy as np
import pytest
from faults.phantom import LPS_TO_RAS

from pipeline.labels.reading import described, read_labels
from pipeline.labels.rule import rule_of
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.reading import read_scan

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "dicom").is_dir(), reason="the real scans of ../shared/data are absent")

STS = DATA / "dicom" / "sts002_ct_pet_mr_rtstruct"
SEGMENTED = DATA / "dicom" / "prostate_adc_seg"
# modality: (voxels inside, of how many another group's converter thinks otherwise)
SIZES = {"CT": (17090, 0), "MR_T1": (17090, 0), "PET": (553, 2)}


def read(folder: Path, labels: Path, rule):
    paths = sorted(folder.iterdir())
    grid = read_scan("dicom", paths).canonical().grid
    return read_labels([labels], rule, grid, ("dicom", paths))


@pytest.mark.parametrize("modality", SIZES)
def test_a_structure_set_is_the_mask_that_another_group_made_of_it(modality) -> None:
    found = read(STS / modality / "image", STS / modality / "mask" / "RS.dcm", rule_of({1: "gtv_mass_*"}, None))
    theirs = read_scan("nifti", [DATA / "ibsi_sts" / "STS_002" / f"{modality}_mask.nii.gz"]).canonical()
    assert theirs.grid.same_place(found.grid)
    inside, differ = SIZES[modality]
    assert found.voxels.sum() == inside
    assert (found.voxels[0] != theirs.voxels[0]).sum() == differ


def test_a_structure_set_drawn_on_the_pet_can_be_laid_on_the_ct() -> None:
    """The three share a frame of reference; slices of PET and CT lie 0.02 mm apart."""
    labels = STS / "PET" / "mask" / "RS.dcm"
    found = read(STS / "CT" / "image", labels, rule_of({1: "gtv_mass_*"}, None))
    assert found.voxels.sum() == pytest.approx(17090, rel=0.02)


def test_segments_that_overlap_are_refused_until_the_task_orders_them() -> None:
    path = SEGMENTED / "seg" / "1-1.dcm"
    names = {item.number: item.name for item in described(path).structures}
    assert len(names) == 4
    with pytest.raises(Refused) as refused:
        read(SEGMENTED / "ADC", path, rule_of(names, None))
    assert refused.value.code == Code.LABELS_OVERLAP
    found = read(SEGMENTED / "ADC", path, rule_of(names, None, on_top=(3, 1, 2)))
    assert set(np.unique(found.voxels)) == {0, 1, 2, 3, 4}


def test_each_segment_is_what_highdicom_makes_of_it() -> None:
    hd = pytest.importorskip("highdicom")
    path = SEGMENTED / "seg" / "1-1.dcm"
    theirs = hd.seg.segread(path)
    for item in described(path).structures:
        rule = rule_of({1: "no"}, {1: [item.name], 0: ["*"]})
        found = read(SEGMENTED / "ADC", path, rule)
        other = theirs.get_volume(segment_numbers=[item.number], combine_segments=True, rtol=0.01)
        places = np.argwhere(other.array > 0)
        index = found.grid.index((np.c_[places, np.ones(len(places))] @ other.affine.T)[:, :3] @ LPS_TO_RAS[:3, :3].T)
        assert len(places) == found.voxels.sum() > 0
        assert (found.voxels[0][tuple(np.round(index).astype(int).T)] == 1).all()
