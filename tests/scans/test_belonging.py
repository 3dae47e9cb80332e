"""Which image a label volume belongs to, by place and name."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest

from pipeline.scans.folders.belonging import Images
from pipeline.scans.folders.naming import name_of, says_labels
from pipeline.scans.identity import Identity
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.labelling import match_labels


def owners(images, label, channels=()):
    return Images(((image, image, name_of(image, channels).key) for image in images), channels).called(label)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a/visit1/t1.nii.gz", "a/visit1/t1.nii.gz"),
        ("imagesTr/case01.nii.gz", "case01.nii.gz"),
        ("case01/image.nii.gz", "case01/seg.nii.gz"),
        ("case01/imaging.nii.gz", "case01/segmentation.nrrd"),
        ("a/CT_image.nii.gz", "a/CT_mask.nii.gz"),
        ("volume-7.nii", "segmentation-7.nii"),
        ("case01.nii.gz", "labels/case01_seg.nii.gz"),
        ("sub-01/ses-2/anat/sub-01_ses-2_run-1_T1w.nii.gz", "derivatives/manual/sub-01/sub-01_ses-2_run-1_space-orig_dseg.nii.gz"),
        ("case01/CT.nii.gz", "case01.nii.gz"),
    ],
)
def test_a_label_volume_finds_its_image_among_others(image, label):
    others = [image.replace("7", "8").replace("case01", "case02").replace("01", "02").replace("a/", "b/", 1)]
    assert others != [image]
    assert owners([image, *others], label) == [image]


def test_what_several_images_share_decides_nothing():
    images = ["a/t1.nii.gz", "b/t1.nii.gz"]
    assert owners(images, "t1.nii.gz") == images
    assert owners(images, "c/t2.nii.gz") == []
    assert owners(images, "b/t1.nii.gz") == images[1:]


def test_channels_of_an_exam_share_its_labels():
    images = ["a_CT.nii.gz", "a_PT.nii.gz", "b_CT.nii.gz", "b_PT.nii.gz"]
    assert owners(images, "a.nii.gz", ("CT", "PT")) == images[:2]
    assert owners(images, "a_CT.nii.gz", ("CT", "PT")) == images[:2], "drawn on one of them"


@pytest.mark.parametrize("stem", ["case01_seg", "mask", "CT_mask", "segmentation-12", "patient001_frame01_gt", "a label"])
def test_names_that_say_labels(stem):
    assert says_labels(stem)


@pytest.mark.parametrize("stem", ["case01", "segment_3d_t1", "masked_brain", "label_free_mr", "image", "0007"])
def test_names_that_do_not(stem):
    assert not says_labels(stem)


def test_a_folder_that_holds_scans_and_labels_is_both(tmp_path):
    for subject in "ab":
        for name in ("image", "seg"):
            (tmp_path / subject).mkdir(exist_ok=True)
            nibabel.save(
                nibabel.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4)), tmp_path / subject / f"{name}.nii.gz"
            )
    source = Place(tmp_path, "x")
    found = take_stock([replace(source, task="organ"), source], Identity(b"k" * 32))
    owned = match_labels(found)
    assert sorted(file.relative for file in found.files if file.status == "volume") == ["a/image.nii.gz", "b/image.nii.gz"]
    assert len(owned) == 2
    labels = {file.file_id: file.relative for file in found.files if file.status == "companion"}
    images = {file.scan_id: file.relative for file in found.files if file.status == "volume"}
    assert {images[scan]: labels[tasks["organ"]] for scan, tasks in owned.items()} == {f"{s}/image.nii.gz": f"{s}/seg.nii.gz" for s in "ab"}


def test_a_name_says_the_modality_where_nothing_else_does(tmp_path):
    for name in ("p_CT", "p_PET", "p_T1"):
        nibabel.save(nibabel.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4)), tmp_path / f"{name}.nii.gz")

    def modalities(place):
        return [scan.modality for scan in sorted(take_stock([place], Identity(b"k" * 32)).scans, key=lambda scan: scan.paths[0])]

    assert modalities(Place(tmp_path, "x")) == ["CT", "PT", "MR"]
    assert modalities(Place(tmp_path, "x", modality="MR")) == ["MR", "MR", "MR"], "the study knows better"
