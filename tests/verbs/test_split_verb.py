"""`vesalius split`: what fine-tuning will ask for is checked here, before hours of pretraining."""

import pandas as pd
import pytest
import yaml

from pipeline.plan import make_plan
from pipeline.verbs.split import check_transfers, never_drawn

SPLITS = ["train"] * 4 + ["validation"] + ["test"] * 2


def planned(folder, **finetune):
    (folder / "organ.yaml").write_text("labels: labels\nkind: {segmentation: {classes: {1: organ}}}\n")
    study = {"sources": [{"path": "images"}], "split": {"test": 2, "validation": 1}, "tasks": ["organ.yaml"], "finetune": finetune}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study))
    return make_plan(folder / "tiny.yaml")


@pytest.fixture
def frame():
    names = [f"scan{number}" for number in range(len(SPLITS))]
    return pd.DataFrame({"scan_id": names, "split": SPLITS, "labels": '{"organ": [1]}', "twin_of": ""})


def test_sizes_that_can_be_had_pass(tmp_path, frame):
    check_transfers(planned(tmp_path, num_labels=[1, 4, "all"], search={"num_labels": 4}), frame)


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        ({"num_labels": [2, 64]}, r"study tiny: finetune\.num_labels: 64 labelled scans are asked for; 1 to 4 can be had"),
        ({"num_labels": [2], "search": {"num_labels": 8}}, r"study tiny: finetune\.search\.num_labels: 8 is more than the 4"),
    ],
)
def test_more_labels_than_there_are_stop_before_the_pretraining(tmp_path, frame, finetune, message):
    with pytest.raises(ValueError, match=message):
        check_transfers(planned(tmp_path, **finetune), frame)


def test_twins_of_labelled_scans_do_not_count(tmp_path, frame):
    frame.loc[0, "twin_of"] = "scan1"
    with pytest.raises(ValueError, match="1 to 3 can be had"):
        check_transfers(planned(tmp_path, num_labels=[4]), frame)


def test_a_class_that_no_training_scan_has_is_told(frame):
    frame.loc[frame["split"] == "test", "labels"] = '{"organ": [1, 2]}'
    assert never_drawn(frame, "organ", {1: "organ", 2: "tumour"}) == ["tumour (2)"]
    assert never_drawn(frame, "organ", {1: "organ"}) == []
