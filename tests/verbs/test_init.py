"""`vesalius init`: what it writes can be planned and says what was found; what it can't use, it names."""

import json

import nibabel
import numpy as np
import pytest
import yaml

from pipeline.plan import make_plan
from pipeline.scans.folders.naming import name_of
from pipeline.verbs import init


def save(path, values, spacing_mm=(1.0, 1.0, 2.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*spacing_mm, 1.0])), path)


def fill(root, names, low=0, spacing_mm=(1.0, 1.0, 2.0), shape=(36, 52, 20)):
    rng = np.random.default_rng(0)
    for name in names:
        save(root / "images" / f"{name}.nii.gz", rng.integers(low, 1000, shape, dtype=np.int16), spacing_mm)
        labels = np.zeros(shape, np.uint8)
        labels[2:4] = 1
        labels[8:9] = 5 if name == names[0] else 0
        save(root / "labels" / f"{name}.nii.gz", labels, spacing_mm)


@pytest.fixture
def cohort(tmp_path):
    fill(tmp_path / "heart", [f"case{number}" for number in range(8)])
    return tmp_path / "heart"


def call(root, tmp_path, name=None):
    init.run(root / "images", root / "labels", name, tmp_path / "configs")
    chosen = name or root.name
    return tmp_path / "configs" / "studies" / f"{chosen}.yaml", tmp_path / "configs" / "tasks" / f"{chosen}.yaml"


def test_the_study_it_writes_can_be_planned_and_holds_what_was_found(cohort, tmp_path, capsys):
    study, task = call(cohort, tmp_path)
    plan = make_plan(study)
    assert plan.study["sources"][0]["path"] == str(cohort / "images")
    assert plan.study["sources"][0]["modality"] == "MR"
    assert plan.study["split"] == {"test": 2, "validation": 1, "seed": 0}
    assert plan.study["finetune"]["num_labels"] == [1, 2, 4, "all"]
    assert plan.study["finetune"]["size_vox"] == [32, 48, 16]
    assert plan.study["preprocess"]["spacing_mm"] == "native"
    assert yaml.safe_load(task.read_text())["kind"]["segmentation"]["classes"] == {1: "label_1", 5: "label_5"}
    assert "1 in 8, 5 in 1" in task.read_text()
    assert "8 images of 8 subjects in 8 files (8 nifti)" in study.read_text()
    assert f"next: vesalius run {study}" in capsys.readouterr().out


def test_the_schema_lines_lead_to_the_schemas(cohort, tmp_path):
    for path, kind in zip(call(cohort, tmp_path), ("study", "task"), strict=True):
        first = path.read_text().partition("\n")[0]
        assert (path.parent / first.partition("$schema=")[2]).resolve().as_posix().endswith(f"configs/schemas/{kind}.json")


def test_air_below_zero_means_ct(tmp_path):
    fill(tmp_path / "chest", ["a", "b", "c"], low=-1024)
    study, _ = call(tmp_path / "chest", tmp_path)
    assert make_plan(study).study["sources"][0]["modality"] == "CT"


def test_volumes_of_several_spacings_are_resampled_to_the_median(tmp_path):
    fill(tmp_path / "liver", ["a", "b", "c"])
    fill(tmp_path / "liver", ["d", "e"], spacing_mm=(3.0, 3.0, 3.0))
    study, _ = call(tmp_path / "liver", tmp_path)
    assert make_plan(study).study["preprocess"]["spacing_mm"] == [1.0, 1.0, 2.0]


def test_series_and_their_labels_are_matched_by_folder(tmp_path):
    from anatomy.grid import Grid
    from pipeline.cohorts._series import folder_name, invent_person, pack_series

    grid = Grid.of((24, 20, 6), (1.5, 1.5, 4.0))
    for number in range(3):
        person = invent_person(0, number)
        name = folder_name(person)
        for file, content in pack_series(np.full(grid.shape, number, np.int16), grid, person, 0).items():
            path = tmp_path / "head" / "images" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        save(tmp_path / "head" / "labels" / f"{name}.nii.gz", np.ones(grid.shape, np.uint8), grid.spacing_mm)
    study, _ = call(tmp_path / "head", tmp_path)
    text = study.read_text()
    assert "3 images of 3 subjects in 18 files (3 dicom)" in text
    assert "24 x 20 x 6 voxels of 1.5 x 1.5 x 4 mm" in text
    assert make_plan(study).study["sources"][0]["modality"] == "MR"
    assert not any(invent_person(0, number)["name"].partition("^")[0].lower() in text.lower() for number in range(3))


def test_labels_below_the_scans_are_no_scans(cohort, tmp_path):
    init.run(cohort, cohort / "labels", "nested", tmp_path / "configs")
    assert "8 images of 8 subjects" in (tmp_path / "configs" / "studies" / "nested.yaml").read_text()


def cube(path):
    save(path, np.arange(8000, dtype=np.int16).reshape(20, 20, 20))


def mask(path):
    save(path, np.ones((20, 20, 20), np.uint8))


@pytest.mark.parametrize(
    ("image", "label", "channels"),
    [
        ("images/{}_{}", "labels/{}", ["0000", "0001"]),
        ("images/{}_{}", "labels/{}", ["FLAIR", "T1"]),
        ("images/{}/{}", "labels/{}", ["CT", "PT"]),
        ("images/sub-{0}/anat/sub-{0}_{1}", "labels/sub-{0}/anat/sub-{0}_dseg", ["FLAIR", "T1w"]),
    ],
)
def test_sequences_whose_exam_has_the_labels_become_channels(tmp_path, image, label, channels):
    root = tmp_path / "exams"
    for subject in ("x", "y", "z"):
        for channel in channels:
            cube(root / f"{image.format(subject, channel)}.nii.gz")
        mask(root / f"{label.format(subject)}.nii.gz")
    study, _ = call(root, tmp_path)
    plan = make_plan(study)
    assert plan.study["channels"] == channels
    assert plan.study["split"] == {"test": 1, "validation": 1, "seed": 0}
    assert "6 images of 3 subjects" in study.read_text()


def test_sequences_without_labels_are_pointed_out(tmp_path):
    for subject in ("x", "y", "z"):
        for sequence in ("ct", "pet"):
            cube(tmp_path / "exams" / f"{subject}_{sequence}.nii.gz")
    init.run(tmp_path / "exams", None, None, tmp_path / "configs")
    text = (tmp_path / "configs/studies/exams.yaml").read_text()
    assert '# channels: ["ct", "pet"]' in text
    assert "3 CT, 3 PT" in text


def test_labels_beside_their_images_are_no_scans_and_are_used_on_demand(tmp_path, capsys):
    root = tmp_path / "cases"
    for subject in ("x", "y", "z"):
        cube(root / subject / "image.nii.gz")
        mask(root / subject / "seg.nii.gz")
    init.run(root, None, "bare", tmp_path / "configs")
    assert f"3 label volumes by name or folder are left aside; to use them, call again with --labels {root}" in capsys.readouterr().out
    assert "3 images of 3 subjects" in (tmp_path / "configs/studies/bare.yaml").read_text()
    init.run(root, root, "whole", tmp_path / "configs")
    assert "3 images of 3 subjects in 3 files (3 nifti);\n# 3 subjects have labels" in (tmp_path / "configs/studies/whole.yaml").read_text()


def test_links_and_archives_are_named_where_there_is_nothing_else(cohort, tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "case.nii.gz").symlink_to(cohort / "images" / "case0.nii.gz")
    (odd / "more.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"1 links lead out of it.*1 archives.*unpack them"):
        init.run(odd, None, None, tmp_path / "configs")


def test_nothing_is_overwritten(cohort, tmp_path):
    study, _ = call(cohort, tmp_path)
    study.write_text("mine")
    with pytest.raises(ValueError, match=r"heart\.yaml: is there already.*--name"):
        call(cohort, tmp_path)
    assert study.read_text() == "mine"
    call(cohort, tmp_path, "another")


@pytest.mark.parametrize("name", ["../x", "A b", "", "x" * 60])
def test_a_name_that_is_none_is_refused(cohort, tmp_path, name):
    with pytest.raises(ValueError, match="--name"):
        init.run(cohort / "images", cohort / "labels", name, tmp_path / "configs")


def empty_scans(root):
    for path in (root / "images").iterdir():
        path.unlink()


def missing_labels(root):
    (root / "labels").rename(root / "elsewhere")


def no_label_files(root):
    for path in (root / "labels").iterdir():
        path.rename(path.with_name(f"{path.stem}.txt"))
        path.with_name(f"{path.stem}.txt").write_text("notes")


def other_names(root):
    for path in (root / "labels").iterdir():
        path.rename(path.with_name(f"other_{path.name}"))


def two_labelled(root):
    for path in sorted((root / "labels").iterdir())[2:]:
        path.unlink()


def fractions(root):
    save(root / "labels" / "case0.nii.gz", np.full((36, 52, 20), 0.5, np.float32))


def background(root):
    for path in (root / "labels").iterdir():
        save(path, np.zeros((36, 52, 20), np.uint8))


def damaged(root):
    for path in (root / "images").iterdir():
        path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (empty_scans, "images: holds no NIfTI, MetaImage or DICOM file"),
        (missing_labels, "labels: there is no such folder"),
        (no_label_files, "labels: holds no NIfTI or MetaImage file"),
        (other_names, "none of its 8 label files belongs to one image.*Rename"),
        (two_labelled, "only 2 subjects have labels"),
        (fractions, "case0.*whole numbers"),
        (background, "background only"),
        (damaged, "no readable header"),
    ],
)
def test_bad_folders_are_one_message_and_leave_nothing(cohort, tmp_path, spoil, message):
    spoil(cohort)
    with pytest.raises(ValueError, match=message):
        call(cohort, tmp_path)
    assert not list((tmp_path / "configs").rglob("*.yaml"))


def test_several_volumes_of_one_person_are_one_subject(tmp_path):
    fill(tmp_path / "cine", [f"patient{n:03d}_{phase}" for n in range(6) for phase in ("ED", "ES")])
    study, _ = call(tmp_path / "cine", tmp_path)
    plan = make_plan(study)
    assert "12 images of 6 subjects" in study.read_text()
    assert plan.study["split"] == {"test": 1, "validation": 1, "seed": 0}
    pattern = plan.study["sources"][0]["subject"]
    assert {name_of(f"patient00{n}_{phase}.nii.gz", (), pattern).subject for n in (0, 1) for phase in ("ED", "ES")} == {
        "patient000", "patient001"
    }  # fmt: skip


def describe(root, value, name="dataset.json"):
    (root / name).write_text(json.dumps(value))


def test_a_folder_of_nnunet_names_its_labels_itself(cohort, tmp_path):
    (cohort / "images").rename(cohort / "imagesTr")
    (cohort / "labels").rename(cohort / "labelsTr")
    for path in (cohort / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    describe(cohort, {"channel_names": {"0": "CT"}, "labels": {"background": 0, "left atrium": 1, "wall": 5, "never seen": 6}})
    init.run(cohort, None, "atrium", tmp_path / "configs")
    plan = make_plan(tmp_path / "configs/studies/atrium.yaml")
    assert plan.tasks["atrium"]["kind"]["segmentation"]["classes"] == {"1": "left atrium", "5": "wall", "6": "never seen"}
    assert plan.tasks["atrium"]["labels"] == str(cohort / "labelsTr")
    assert plan.study["sources"][0]["path"] == str(cohort)
    assert plan.study["sources"][0]["modality"] == "CT", "as dataset.json says, whatever the values are"
    assert "8 images of 8 subjects" in (tmp_path / "configs/studies/atrium.yaml").read_text()


def test_sequences_in_a_4d_file_of_the_decathlon_become_channels(tmp_path):
    root = tmp_path / "Task01"
    for number in range(3):
        save(root / f"imagesTr/B_{number}.nii.gz", np.arange(16000, dtype=np.int16).reshape(20, 20, 20, 2))
        save(root / f"labelsTr/B_{number}.nii.gz", np.ones((20, 20, 20), np.uint8))
    pairs = [{"image": f"./imagesTr/B_{n}.nii.gz", "label": f"./labelsTr/B_{n}.nii.gz"} for n in range(3)]
    describe(root, {"modality": {"0": "FLAIR", "1": "T1w"}, "labels": {"0": "background", "1": "tumour"}, "training": pairs})
    init.run(root, None, None, tmp_path / "configs")
    plan = make_plan(tmp_path / "configs/studies/task01.yaml")
    assert plan.study["channels"] == ["0000", "0001"]
    assert plan.study["sources"][0]["four_d"] == "split"
    assert plan.study["sources"][0]["modality"] == "MR"
    assert plan.tasks["task01"]["kind"]["segmentation"]["classes"] == {"1": "tumour"}


def test_headers_that_place_voxels_in_two_ways_are_named_beside_the_key_that_settles_it(cohort, tmp_path):
    for folder in ("images", "labels"):
        image = nibabel.load(cohort / folder / "case3.nii.gz")
        twice = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
        twice.set_sform(image.affine, 1)
        twice.set_qform(np.diag([-1.0, 1.0, 1.0, 1.0]) @ image.affine, 1)
        nibabel.save(twice, cohort / folder / "case3.nii.gz")
    study, _ = call(cohort, tmp_path)
    line = next(line for line in study.read_text().splitlines() if "placement" in line)
    assert line.startswith("    # placement: sform   # sform and qform disagree in 1 headers looked at")
    study.write_text(study.read_text().replace("# placement: sform", "placement: sform"))
    assert make_plan(study).study["sources"][0]["placement"] == "sform"


def test_a_folder_without_labels_becomes_a_study_that_only_pretrains(tmp_path, capsys):
    root = tmp_path / "Dataset001"
    subjects = {}
    for number in range(4):
        save(root / f"odd/{number}.nii.gz", np.arange(8000, dtype=np.int16).reshape(20, 20, 20))
        image = {"image_path": f"$nnssl_raw/Dataset001/odd/{number}.nii.gz", "modality": "T1w"}
        subjects[f"P{number}"] = {"sessions": {"ses-DEFAULT": {"images": [image]}}}
    save(root / "odd/mask.nii.gz", np.ones((20, 20, 20), np.uint8))
    describe(root, {"datasets": {"D": {"subjects": subjects}}}, "pretrain_data.json")
    init.run(root, None, None, tmp_path / "configs")
    study = tmp_path / "configs/studies/dataset001.yaml"
    plan = make_plan(study)
    assert not plan.tasks
    assert not plan.transfers
    assert len(plan.runs) == 2
    assert plan.study["split"] == {"test": 0, "validation": 1, "seed": 0}
    assert "4 images of 4 subjects" in study.read_text()
    assert not (tmp_path / "configs/tasks").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("dataset.json", "{"), ("dataset.json", '{"labels": 1, "modality": {}}'), ("pretrain_data.json", "[]")]
)
def test_a_broken_description_is_one_message(cohort, tmp_path, name, value):
    (cohort / name).write_text(value)
    with pytest.raises(ValueError, match=rf"{name}: .*mend it, or remove it"):
        init.run(cohort, None, "x", tmp_path / "configs")
