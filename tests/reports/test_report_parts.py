"""Parts of the report: figures that follow the page's colours, pictures the right way up, tables that add up."""

import base64
import io

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.folder import StudyFolder
from pipeline.reports import contents, figures, page, pictures

POINTS = [
    {"initialisation": name, "num_labels": size, "dice": 0.5 + 0.01 * size, "low": 0.4, "high": 0.7}
    for name in ("restoration", "scratch")
    for size in (2, 8)
]


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_a_figure_takes_the_pages_colour_and_is_the_same_each_time():
    first, second = (figures.svg_of(figures.dice_curve(POINTS, "task")) for _ in range(2))
    assert first == second
    assert "currentColor" in first
    assert figures.INK not in first
    for words in ("restoration", "scratch", "labelled training subjects"):
        assert words in first


def test_scratch_is_the_grey_line_whatever_the_order():
    figure = figures.dice_curve(POINTS, "task")
    lines = {container.get_label(): container[0].get_color() for container in figure.axes[0].containers}
    assert lines["scratch"] == figures.COLOURS[0]
    assert lines["restoration"] != figures.COLOURS[0]


def test_seeds_of_a_recipe_share_a_colour_and_differ_in_dashes():
    series = {f"{name}-s{seed}-0123456789": {"loss": ([1, 2], [0.2, 0.1])} for name in ("masked", "moco") for seed in (0, 1)}
    figure = figures.loss_curves(series, ["loss"])
    styles = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert styles["masked-s0"][0] == styles["masked-s1"][0] != styles["moco-s0"][0]
    assert styles["masked-s0"][1] != styles["masked-s1"][1]


def test_a_picture_has_right_on_the_left_and_front_at_the_top():
    plane = np.zeros((4, 6))
    plane[3, 5] = 1.0  # the rightmost, most anterior voxel
    image = pixels(pictures.png_uri(pictures.upright(plane)))
    assert image.shape == (6, 4)
    assert np.argwhere(image == 255).tolist() == [[0, 0]]


def test_three_planes_have_square_millimetres():
    image = pictures.three_planes(np.zeros((20, 30, 10)), (2.0, 1.0, 4.0), height=60)
    assert image.shape[0] == 60
    widths = (60, 60, 45)  # 40 mm x 30 mm, 40 mm x 40 mm, 30 mm x 40 mm at 1.5 pixels a millimetre
    assert image.shape[1] == sum(widths) + 12


def test_the_data_table_counts_scans_subjects_and_labels():
    row = {
        "origin": "o", "licence": "l", "modality": "MR", "spacing_mm": [1.0, 1.0, 2.0], "shape": [10, 20, 30], "twin_of": "",
        "split": "train", "flags": "",
        "cluster_id": "a", "subject_id": "a", "labels": '{"task": [0, 1]}',
    }  # fmt: skip
    frame = pd.DataFrame([row, row | {"twin_of": "x"}, row | {"subject_id": "b", "cluster_id": "b", "split": "test", "labels": "{}"}])
    section = contents.data_section(frame)
    assert (section["num_scans"], section["num_subjects"]) == (3, 2)
    assert section["rows"][0]["twins"] == 1
    assert section["rows"][0]["spacing"] == "1 × 1 × 2"
    assert {s["split"]: s["labelled"] for s in section["splits"]} == {"train": 2, "validation": 0, "test": 0}


def test_refusals_are_grouped_by_reason(tmp_path):
    (tmp_path / "inventory.tsv").write_text("file_id\tstatus\na\tvolume\nb\tquarantined\nc\tquarantined\nd\tnovel\n")
    head = "file_id\tscan_id\tstage\tcode\treason\tremedy\torigin\tlicence\n"
    (tmp_path / "quarantine.tsv").write_text(head + "b\t\tindex\tEMPTY\tr\tm\to\tl\nc\t\tindex\tEMPTY\tr\tm\tp\tl\n")
    section = contents.refused_section(StudyFolder(tmp_path))
    assert section["accounted"] == ["1 hold scans", "2 were refused", "1 novel"]
    assert section["reasons"] == [{"code": "EMPTY", "reason": "r", "remedy": "m", "count": 2, "origins": "o, p"}]


class TwoChannels:
    def read(self, scan_id):
        return np.stack([np.zeros((20, 20, 20), np.int16), np.full((20, 20, 20), 100, np.int16)])


def test_every_channel_of_a_volume_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(page.pictures, "png_uri", lambda image: shown.append(image) or "data:")
    row = {"scan_id": "a", "modality": "CT+PT", "channels": '["CT", "PT"]', "origin": "o", "window_low": [0, 0], "window_high": [100, 100]}
    tiles = page._montage(pd.DataFrame([row | {"spacing_mm": [1.0, 1.0, 1.0]}]), TwoChannels())
    assert tiles[0]["caption"] == "CT, PT, from the top"
    upper, lower = np.split(shown[0], 2)
    assert (upper.max(), lower.max()) == (0, 1)


def test_a_thin_volume_is_shown_thin():
    voxels = np.ones((40, 40, 5))
    image = pictures.three_planes(voxels, (1.0, 1.0, 1.0), height=80)
    assert image.shape[0] == 80
    coronal = image[:, 84:168]
    assert int((coronal.max(axis=1) > 0).sum()) == 10, "5 mm at 2 pixels a millimetre"
