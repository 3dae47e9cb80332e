"""Folders that describe themselves: nnU-Net, Decathlon, nnssl, BIDS. What their JSON says is taken; what is wrong with it is told."""

import json
import os
from collections import Counter

import nibabel as nib
import numpy as np
import pytest

from pipeline.scans.folders.descriptions import MAX_BYTES, Malformed, channel_names, label_names, read_description
from pipeline.scans.folders.naming import modality_of
from pipeline.scans.identity import Identity
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.labelling import match_labels
from pipeline.scans.quarantine import Code

IDENTITY = Identity(bytes(32))
V2 = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 2, "file_ending": ".nii.gz"}


def save(root, *names, shape=(8, 9, 10)):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones(shape, np.int16), np.diag([1.0, 1.5, 2.0, 1.0])), root / name)


def describe(folder, value, name="dataset.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def stock(folder, task=None, **settings):
    channels = settings.pop("channels", ())
    places = [Place(task, "labels", task="organ")] if task else []
    found = take_stock([*places, Place(folder, "scans", **settings)], IDENTITY, channels)
    return found, {file.relative: (file.status, file.code) for file in found.files}


def by_subject(found):
    return {scan.subject: (scan.modality, scan.channel, scan.key) for scan in found.scans}


def test_nnunet_v2_by_folders_and_channel_names(tmp_path):
    describe(tmp_path / "Dataset007_Liver", V2)
    save(tmp_path / "Dataset007_Liver", "imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "imagesTs/c_0000.nii.gz", "labelsTr/a.nii.gz")
    found, status = stock(tmp_path)
    assert status["Dataset007_Liver/labelsTr/a.nii.gz"] == ("companion", None)
    assert status["Dataset007_Liver/dataset.json"] == ("not_image", None)
    assert by_subject(found) == {f"Dataset007_Liver/{name}": ("CT", "0000", name) for name in "abc"}
    assert len({scan.subject_id for scan in found.scans}) == 3
    found, _ = stock(tmp_path / "Dataset007_Liver", task=tmp_path / "Dataset007_Liver/labelsTr")
    assert set(by_subject(found)) == set("abc")
    assert len(match_labels(found)) == 1


def test_channels_are_called_by_four_digits_unless_the_study_names_them(tmp_path):
    describe(tmp_path, {**V2, "channel_names": {"0": "T1w", "1": "Mallory's FLAIR"}})
    save(tmp_path, *(f"imagesTr/{case}_{n:04d}.nii.gz" for case in "ab" for n in range(2)), "labelsTr/a.nii.gz")
    found, _ = stock(tmp_path)
    assert Counter((scan.channel, scan.modality) for scan in found.scans) == {("0000", "MR"): 2, ("0001", "MR"): 2}
    assert len({scan.exam_id for scan in found.scans}) == 2
    found, _ = stock(tmp_path, task=tmp_path / "labelsTr", channels=("T1w", "Mallory's FLAIR"))
    assert {scan.channel for scan in found.scans} == {"T1w", "Mallory's FLAIR"}
    (owner,) = match_labels(found, ("T1w", "Mallory's FLAIR"))
    assert next(scan.channel for scan in found.scans if scan.scan_id == owner) == "T1w"


def test_nnunet_v2_lists_of_files_anywhere(tmp_path):
    pair = {"images": ["pictures/ct.nii.gz", "pictures/suv.nii.gz"], "label": "truths/x7_truth.nii.gz"}
    describe(tmp_path, {**V2, "channel_names": {"0": "CT", "1": "PET"}, "dataset": {"x7": pair}})
    save(tmp_path, "pictures/ct.nii.gz", "pictures/suv.nii.gz", "truths/x7_truth.nii.gz")
    found, status = stock(tmp_path, channels=("0000", "0001"))
    assert status["truths/x7_truth.nii.gz"] == ("companion", None)
    assert {scan.subject for scan in found.scans} == {"x7"}
    assert {(scan.modality, scan.channel, scan.key) for scan in found.scans} == {("CT", "0000", "x7_truth"), ("PT", "0001", "x7_truth")}
    found, _ = stock(tmp_path, task=tmp_path / "truths")
    assert len(match_labels(found, ("0000", "0001"))) == 1, "the JSON pairs them, whatever they are called"


def test_nnunet_v1_lists_images_without_their_channel(tmp_path):
    old = {"modality": {"0": "MRI", "1": "PET"}, "labels": {"0": "background", "1": "x"}}
    pair = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    describe(tmp_path, {**old, "training": [pair], "test": ["./imagesTs/b.nii.gz"]})
    save(tmp_path, *(f"images{part}_{n:04d}.nii.gz" for part in ("Tr/a", "Ts/b") for n in range(2)), "labelsTr/a.nii.gz")
    (tmp_path / "imagesTs/b_0001.nii.gz").unlink()
    found, status = stock(tmp_path)
    assert Counter(scan.modality for scan in found.scans) == {"MR": 2, "PT": 1}
    assert [name for name, (_, code) in status.items() if code is Code.MISSING_FILE] == ["imagesTs/b_0001.nii.gz"]


def test_decathlon_with_four_sequences_in_one_file(tmp_path):
    value = {
        "name": "BRATS", "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, "labels": {"0": "background", "1": "edema"},
        "training": [{"image": f"./imagesTr/B_{n}.nii.gz", "label": f"./labelsTr/B_{n}.nii.gz"} for n in range(2)], "test": [],
    }  # fmt: skip
    describe(tmp_path, value)
    save(tmp_path, "imagesTr/B_0.nii.gz", "imagesTr/B_1.nii.gz", shape=(8, 9, 10, 4))
    save(tmp_path, "labelsTr/B_0.nii.gz", "labelsTr/B_1.nii.gz")
    (tmp_path / "imagesTr/._B_0.nii.gz").write_bytes(b"\0\5\x16\7" + bytes(300))
    channels = ("0000", "0001", "0002", "0003")
    found, status = stock(tmp_path, task=tmp_path / "labelsTr", four_d="split", channels=channels)
    assert Counter(scan.channel for scan in found.scans) == dict.fromkeys(channels, 2)
    assert {scan.modality for scan in found.scans} == {"MR"}
    owners = match_labels(found, channels)
    assert {scan.channel for scan in found.scans if scan.scan_id in owners} == {"0000"}
    assert len(owners) == 2
    assert status["imagesTr/._B_0.nii.gz"] == ("not_image", None)
    _, status = stock(tmp_path)
    assert status["imagesTr/B_0.nii.gz"] == ("quarantined", Code.DIMENSIONS)


def test_a_source_that_is_the_images_of_a_dataset_reads_the_json_above_it(tmp_path):
    describe(tmp_path, {**V2, "dataset": {"a": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a_truth.nii.gz"}}})
    save(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a_truth.nii.gz")
    found, status = stock(tmp_path / "imagesTr", task=tmp_path / "labelsTr")
    assert by_subject(found)["a"][0] == "CT"
    assert len(status) == 2, "what lies outside the source is not spoken of"


def nnssl(*images):
    sessions = {"ses-1": {"session_id": "ses-1", "images": list(images)}}
    subjects = {"P7": {"subject_id": "P7", "sessions": sessions}}
    return {"collection_name": "C", "datasets": {"D1": {"name": "D1", "subjects": subjects}}}


def test_nnssl_says_whose_and_what_every_image_is(tmp_path):
    mask = {"anonymization_mask": "$nnssl_raw/Dataset001/odd/m.nii.gz", "anatomy_mask": None}
    describe(
        tmp_path / "Dataset001",
        nnssl(
            {"name": "a", "image_path": "$nnssl_raw/Dataset001/odd/place/7.nii.gz", "modality": "T1w", "associated_masks": mask},
            {"name": "b", "image_path": "odd/8.nii.gz", "modality": "PET"},
            {"name": "c", "image_path": str(tmp_path / "Dataset001/odd/9.nii.gz"), "modality": "CT"},
        ),
        "pretrain_data.json",
    )
    save(tmp_path / "Dataset001/odd", "place/7.nii.gz", "8.nii.gz", "9.nii.gz", "m.nii.gz", "unlisted.nii.gz")
    for folder in (tmp_path, tmp_path / "Dataset001"):
        found, status = stock(folder)
        assert Counter(state for state, _ in status.values()) == {"volume": 3, "companion": 1, "not_image": 2}
        assert {(scan.modality, scan.channel) for scan in found.scans} == {("MR", "T1w"), ("PT", "PT"), ("CT", "CT")}
        assert len({scan.subject_id for scan in found.scans}) == 1
        assert len({scan.exam_id for scan in found.scans}) == 1


def test_what_a_json_names_and_is_not_there_is_told_and_not_followed(tmp_path):
    (tmp_path / "outside.nii.gz").touch()
    describe(
        tmp_path / "in",
        nnssl(*({"image_path": name} for name in ("there.nii.gz", "gone.nii.gz", "../outside.nii.gz", "/etc/passwd"))),
        "pretrain_data.json",
    )
    save(tmp_path / "in", "there.nii.gz")
    found, status = stock(tmp_path / "in")
    assert len(found.scans) == 1
    missing = {name for name, (_, code) in status.items() if code is Code.MISSING_FILE}
    assert missing == {"gone.nii.gz", "../outside.nii.gz", os.path.relpath("/etc/passwd", tmp_path / "in")}
    assert len({file.file_id for file in found.files}) == len(found.files)


BROKEN = {
    "no json": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "not utf-8": '{"labels": "\udce9"}'.encode("utf-8", "surrogateescape").decode("latin-1"),
    "labels of a string and a list of numbers": {"labels": {"a": 0}, "training": [1, 2]},
    "channels from 1": {**V2, "channel_names": {"1": "CT"}},
    "channels as a list": {**V2, "channel_names": ["CT"]},
    "a name too long": {**V2, "training": [{"image": "x" * 5000}]},
    "a name with a zero": {**V2, "training": [{"image": "a\0b"}]},
    "an image of nothing": {**V2, "training": [{"label": "x"}]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_dataset_json_is_quarantined_and_names_decide(tmp_path, name):
    value = BROKEN[name]
    describe(tmp_path, value)
    save(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    if name == "not utf-8":
        (tmp_path / "dataset.json").write_bytes(b'{"labels": "\xe9"}')
    found, status = stock(tmp_path)
    assert status["dataset.json"] == ("quarantined", Code.DATASET_JSON)
    assert status["labelsTr/a.nii.gz"] == ("companion", None)
    assert list(by_subject(found)) == ["a"]


@pytest.mark.parametrize("change", [{"datasets": []}, {"datasets": {"D": {"subjects": 1}}}, {"datasets": {"D": {"subjects": {"s": {}}}}}])
def test_a_broken_pretrain_json_is_quarantined(tmp_path, change):
    describe(tmp_path, {**nnssl(), **change}, "pretrain_data.json")
    save(tmp_path, "a.nii.gz")
    assert stock(tmp_path)[1]["pretrain_data.json"] == ("quarantined", Code.DATASET_JSON)


def test_one_file_under_two_subjects_is_a_contradiction(tmp_path):
    image = {"image_path": "a.nii.gz"}
    describe(tmp_path, nnssl(image, image), "pretrain_data.json")
    save(tmp_path, "a.nii.gz")
    assert stock(tmp_path)[1]["pretrain_data.json"] == ("quarantined", Code.DATASET_JSON)


def test_a_dataset_json_of_another_tool_is_no_layout(tmp_path):
    describe(tmp_path, {"labels": ["a"], "splits": {}})
    save(tmp_path, "p1/a.nii.gz")
    found, status = stock(tmp_path)
    assert status["dataset.json"] == ("not_image", None)
    assert list(by_subject(found)) == ["p1"]


def test_a_huge_json_is_not_read_and_a_pipe_not_opened(tmp_path, monkeypatch):
    monkeypatch.setitem(MAX_BYTES, "dataset.json", 100)
    describe(tmp_path / "big", {**V2, "note": "x" * 200})
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/dataset.json")
    (tmp_path / "link").mkdir()
    (tmp_path / "link/dataset.json").symlink_to(tmp_path / "big/dataset.json")
    _, status = stock(tmp_path)
    assert status["big/dataset.json"] == ("quarantined", Code.DATASET_JSON)
    assert status["pipe/dataset.json"] == ("quarantined", Code.SPECIAL_FILE)
    with pytest.raises(Malformed, match="larger than 100 bytes"):
        read_description(tmp_path / "big/dataset.json")


def test_names_of_labels_in_both_directions():
    assert label_names({"labels": {"0": "background", "1": "Anterior"}}) == {0: "background", 1: "Anterior"}
    assert label_names({"labels": {"background": 0, "liver": 1, "whole": [1, 2]}}) == {0: "background", 1: "liver"}
    assert channel_names({"modality": {"0": "CT"}}) == ("CT",)


@pytest.mark.parametrize(
    ("text", "modality"),
    [("CT", "CT"), ("MRI", "MR"), ("T2w", "MR"), ("cine MRI", "MR"), ("PET", "PT"), ("FDG-PET", "PT"), ("PET/CT", ""), ("noNorm", "")],
)  # fmt: skip
def test_a_modality_is_told_from_its_name_or_not_at_all(text, modality):
    assert modality_of(text) == modality


def test_bids_with_visits_runs_and_derivatives(tmp_path):
    names = ["sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w", "sub-01/ses-1/anat/sub-01_ses-1_run-02_T1w", "sub-01/ses-2/pet/sub-01_ses-2_pet"]
    names += ["sub-02/anat/sub-02_acq-high_T2w"]
    derived = "derivatives/tool/sub-01/ses-1/anat/sub-01_ses-1"
    masks = [f"{derived}_desc-brain_mask", f"{derived}_space-T1w_dseg", f"{derived}_label-GM_probseg", f"{derived}_label-lesion_roi"]
    save(tmp_path, *(f"{name}.nii.gz" for name in names + masks))
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t44\n")
    (tmp_path / "dataset_description.json").write_text("{}")
    found, status = stock(tmp_path)
    assert Counter(state for state, _ in status.values()) == {"volume": 4, "companion": 4, "not_image": 2}
    assert Counter(scan.subject for scan in found.scans) == {"sub-01": 3, "sub-02": 1}
    assert len({scan.exam_id for scan in found.scans}) == 3
    assert Counter(scan.modality for scan in found.scans) == {"MR": 3, "PT": 1}
