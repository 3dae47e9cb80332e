"""The probe of a frozen encoder: training subjects only, halved by cluster, and better for features that know the classes."""

import pytest
import torch

from pipeline.keys import initialise
from pipeline.manifest import read_manifest
from pipeline.plugins import load, settings
from pipeline.step import Context, Features, LevelGeometry, Network
from pipeline.transfer import probe as probing
from pipeline.transfer.probe import make_probe, probe_of
from pipeline.volumes.store import Store

KIND = {"segmentation": {"classes": {1: "grey", 2: "white"}}}
SIZE = (16, 16, 16)


class Seeing(Network):
    """Its one level is the input, which tells the classes of this study apart, or nothing."""

    geometry = (LevelGeometry((1, 1, 1), (0.0, 0.0, 0.0)),)

    def __init__(self, blind):
        super().__init__()
        self.blind, self.unused = blind, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, hidden=None, hide="none", want=frozenset()):
        level = torch.zeros_like(x) if self.blind else x
        return Features(levels=(torch.cat([level, level.square(), level**3], 1),))


@pytest.fixture
def labelled(tiny):
    _, where = tiny
    rows = read_manifest(where.manifest)
    return rows[rows["split"] == "train"].reset_index(drop=True), Store(where.store)


def test_features_that_know_the_classes_score_high_and_blind_ones_guess(labelled):
    rows, store = labelled
    score = make_probe("tissue", KIND, rows, store, SIZE)
    with torch.no_grad():
        assert score(Seeing(blind=False)) > 0.95
        assert score(Seeing(blind=True)) == pytest.approx(1 / 3)


def test_scores_repeat_themselves_and_leave_no_trace(labelled):
    rows, store = labelled
    score = make_probe("tissue", KIND, rows, store, SIZE)
    network = load("networks", "unet")(settings("networks", "unet", {"widths": [4, 8]}), Context(1, 1, 1, SIZE, 1))
    initialise(network, 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    with torch.no_grad():
        first, second = score(network.eval()), score(network)
    assert torch.equal(torch.rand(3), drawn)
    assert first == second
    assert 1 / 3 < first <= 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_halves_share_no_cluster_and_hold_training_subjects_only(labelled, monkeypatch):
    rows, store = labelled
    rows.loc[1, "cluster_id"] = rows.loc[0, "cluster_id"]
    halves = []
    half = probing._half
    monkeypatch.setattr(probing, "_half", lambda volumes, part, size: halves.append(set(part["cluster_id"])) or half(volumes, part, size))
    make_probe("tissue", KIND, rows, store, SIZE)
    assert halves[0] | halves[1] == set(rows["cluster_id"])
    assert not halves[0] & halves[1]
    held = rows.assign(split=["train", "train", "train", "validation"])
    with pytest.raises(ValueError, match="training subjects only"):
        make_probe("tissue", KIND, held, store, SIZE)
    assert make_probe("tissue", KIND, rows[:2], store, SIZE) is None


def test_voxels_are_read_where_they_lie_at_every_level():
    ramp = torch.arange(16.0)

    class Ramp(Network):
        geometry = (LevelGeometry((1, 1, 1), (0.0, 0.0, 0.0)), LevelGeometry((4, 4, 4), (1.5, 1.5, 1.5)))

        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, hidden=None, hide="none", want=frozenset()):
            fine = ramp[:, None, None].expand(1, 1, 16, 16, 16)
            return Features(levels=(fine, torch.nn.functional.avg_pool3d(fine, 4)))

    index = torch.tensor([[[3, 0, 0], [9, 5, 5]]])
    half = probing.Half(torch.zeros(1, 1, *SIZE), index, torch.tensor([[0, 1]]))
    found, answers = probing.read(Ramp(), half)
    assert found.tolist() == [[3.0, 1.5], [9.0, 9.5]]
    assert answers.tolist() == [0, 1]


def test_a_study_without_labels_has_no_probe(tiny):
    plan, where = tiny
    plan.recipes["restoration"]["crops"] = {"random": {"size_vox": list(SIZE)}}
    assert callable(probe_of(plan, where, plan.runs[0].run))
    manifest = read_manifest(where.manifest)
    from pipeline.manifest import write_manifest

    write_manifest(manifest.assign(labels="{}"), where.manifest)
    assert probe_of(plan, where, plan.runs[0].run) is None
