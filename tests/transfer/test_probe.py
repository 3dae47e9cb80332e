"""The probe of a frozen encoder: training subjects only, halved by cluster, and better for features that know the classes."""

from dataclasses import replace

import pytest
import torch

from pipeline.files import read_json
from pipeline.keys import initialise
from pipeline.manifest import read_manifest, write_manifest
from pipeline.plugins import load, settings
from pipeline.recipe import Recipe
from pipeline.step import Context, Features, LevelGeometry, Network
from pipeline.tracking.journal import read_journal
from pipeline.training.encoder import load_encoder
from pipeline.training.pretraining import pretrain
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
    write_manifest(manifest.assign(labels="{}"), where.manifest)
    assert probe_of(plan, where, plan.runs[0].run) is None


def test_a_pretraining_is_probed_and_leaves_the_preferred_encoder_beside_its_own(tiny, monkeypatch):
    plan, where = tiny
    recipe = {
        "name": "restoration", "network": {"unet": {"widths": [4, 8]}}, "crops": {"random": {"size_vox": [8, 8, 8]}},
        "views": {"altered": {"corrupt": {}}}, "objectives": {"restoration": {"view": "altered"}},
        "training": {"steps": 4, "batch": 2, "probe_every": 2, "journal_every": 2, "evaluate_every": 4},
    }  # fmt: skip
    plan.recipes["restoration"] = Recipe.model_validate(recipe).model_dump(mode="json", by_alias=True)
    run = replace(plan.runs[0], run="restoration-s0-abcdefabcd")
    plan = replace(plan, runs=(run,))
    (where.root / "twins.tsv").write_text("scan_a\tscan_b\tkind\tsimilarity\n")
    scores = iter([0.8, 0.4])
    monkeypatch.setattr(probing, "score", lambda *parts: next(scores))
    pretrain(plan, where, run, lambda: probe_of(plan, where, run.run))
    best, own = where.run(run.run) / "best", where.run(run.run)
    assert read_json(best / "encoder.json")["probe"] == {"step": 2, "score": 0.8}
    network, contract = load_encoder(best)
    assert contract["provenance"]["run"] == run.run
    last = load_encoder(own)[0].state_dict()
    assert any(not torch.equal(value, last[name]) for name, value in network.state_dict().items())
    lines = [entry["metrics"] for entry in read_journal(own / "journal.jsonl") if entry["kind"] == "train"]
    assert [line["health/probe"] for line in lines] == [0.8, 0.4]
    assert all("health/altered/pooled/rank" in line for line in lines)
