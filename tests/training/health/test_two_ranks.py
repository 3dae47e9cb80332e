"""With two ranks a run's health is that of one process with the whole batch: the same figures, told once, known to both."""

import json
import os
import re

import pytest
import torch
import toy as forks

from pipeline.files import digest
from pipeline.plugins import load
from pipeline.training.encoder import save_encoder
from pipeline.training.health import alarms, watch
from pipeline.training.health.probe import Probe
from pipeline.training.health.watch import Health

MIX = {
    "views": {"altered": {"corrupt": {}}, "pair": {"augment": {}}},
    "objectives": {
        "restoration": {"view": "altered"}, "moco": {"view": "pair", "weight": 0.1, "queue": 8}, "simclr": {"view": "pair", "weight": 0.2},
    },
}  # fmt: skip
STEPS, TOLERANCE = 8, 1e-3
SHORT = {"steps": STEPS, "batch": 8, "journal_every": 4, "checkpoint_every": 3, "evaluate_every": STEPS}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Gradients and codes are looked at in a short run, too, and an alarm needs few steps: also in every fork."""
    monkeypatch.setattr(watch, "GRADIENTS_EVERY", 4)
    monkeypatch.setattr(watch, "CODES_EVERY", 3)
    monkeypatch.setattr(alarms, "PATIENCE", 4)
    monkeypatch.setattr(load("objectives", "moco"), "health", codes)


def codes(self, step):
    """Codes of the projector's outputs, as an objective with prototypes would have them."""
    teacher, student = (torch.softmax(self.projector(f.pooled)[:, :16] / 0.1, 1) for f in step.student["pair"])
    return {"teacher_codes": teacher, "student_codes": student, "sharpness": teacher.max(1).values.mean()}


class Told(alarms.Alarms):
    """Alarms that write down what they judge."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def judge(self, done, figures):
        with self.path.open("a") as handle:
            handle.write(f"{done} {json.dumps(figures, sort_keys=True)}\n")
        return super().judge(done, figures)


@pytest.fixture
def train(make, tmp_path):
    """Exit codes of one call of a run with ``world`` ranks; ``change(loop)`` comes before it, ``fault`` strikes in it."""

    def trained(mapping, name, world, change=lambda loop: None, fault="", watchers=None):
        make(mapping, "unused")

        def work(ranks):
            torch.set_num_threads(1)
            os.environ["VESALIUS_FAULTS"] = fault
            health = Health()
            health.alarms = Told(tmp_path / f"{name}_judged{ranks.rank}.jsonl")
            loop = make(mapping, name, watchers(ranks) if watchers else [health], ranks)
            change(loop)
            loop.run({"run": name})

        return forks.ranks_in_forks(work, world, tmp_path / f"{name}.txt")

    return trained


def figures(folder):
    return {entry["step"]: entry["metrics"] for entry in forks.entries(folder) if entry["kind"] == "train"}


def last_tensors(folder):
    return digest(folder / "checkpoints" / forks.checkpoints(folder)[-1] / "tensors.safetensors")


def test_figures_are_those_of_one_process_with_the_whole_batch_and_both_ranks_judge_the_same_bits(toy, train, tmp_path):
    for name, world, micro_batch in (("one", 1, None), ("two", 2, 2)):
        mapping = toy(MIX, **SHORT, micro_batch=micro_batch)
        assert train(mapping, name, world) == [0] * world, (tmp_path / f"{name}.txt").read_text()
    whole, shared = figures(tmp_path / "one"), figures(tmp_path / "two")
    assert list(shared) == list(whole) == [4, 8], "a line each, by rank 0"
    for step, metrics in whole.items():
        assert metrics.keys() == shared[step].keys()
        for figure, value in metrics.items():
            assert shared[step][figure] == pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE / 10), (step, figure)
    kinds = {"pair/pooled/rank", "pair/pooled/rank_within", "pair/pooled/spread", "pair/pooled/variation", "altered/dense/variation",
             "altered/dense/rank", "gradient_median", "moco/gradient", "restoration/moco/conflict", "moco/simclr/conflict",
             "moco/teacher_entropy", "moco/codes_entropy", "moco/prototypes_used", "moco/sharpness"}  # fmt: skip
    assert {f"health/{kind}" for kind in kinds} <= whole[8].keys()
    assert {"restoration/contrast", "moco/spread", "simclr/spread"} <= whole[8].keys()
    judged = [(tmp_path / f"two_judged{rank}.jsonl").read_text() for rank in range(2)]
    assert judged[0] == judged[1]
    assert "restoration/contrast" in judged[0]


def test_a_killed_pair_goes_on_with_what_both_ranks_knew(toy, train, tmp_path):
    mapping = toy(MIX, **SHORT)
    assert train(mapping, "whole", 2) == [0, 0]
    assert -9 in train(mapping, "broken", 2, fault="kill@step,step=7,rank=1")
    assert train(mapping, "broken", 2) == [0, 0], (tmp_path / "broken.txt").read_text()
    whole, again = (forks.entries(tmp_path / name) for name in ("whole", "broken"))
    assert [{**entry, "run": ""} for entry in again] == [{**entry, "run": ""} for entry in whole]
    assert last_tensors(tmp_path / "broken") == last_tensors(tmp_path / "whole")


def test_an_alarm_is_told_once_and_ends_both_ranks_at_one_step_for_one_reason(toy, train, tmp_path):
    def flatten(loop):
        loop.learner.network.register_forward_hook(lambda network, inputs, features: forks_same(features))

    mapping = toy({}, **{**SHORT, "journal_every": 2}, on_alarm="stop")
    ended = train(mapping, "stopped", 2, flatten)
    said = (tmp_path / "stopped.txt").read_text()
    assert ended == [1, 1], said
    assert said.count("ALARM at step 6: constant") == 3, "a line of rank 0 for each kind of feature"
    reasons = re.findall(r"Raised: .*: (step \d+: constant: .*)", said)
    assert len(reasons) == 2
    assert len(set(reasons)) == 1
    told = [(entry["step"], entry["figure"]) for entry in forks.entries(tmp_path / "stopped") if entry["kind"] == "alarm"]
    assert len(told) == len(set(told)) == 3
    assert {step for step, _ in told} == {6}
    assert max(figures(tmp_path / "stopped")) < 6, "the run ended with the alarm"


def forks_same(features):
    """Every feature of every crop the same."""
    from dataclasses import replace

    return replace(features, pooled=features.pooled * 0 + 1, levels=tuple(f * 0 + 1 for f in features.levels), dense=features.dense * 0 + 1)


@pytest.mark.parametrize("shard", ["none", "full"])
def test_the_probe_is_rank_0s_and_touches_no_weight(shard, toy, train, tmp_path):
    def probed(name):
        """Rank 0 likes the second best of four, rank 1 the last."""

        def watchers(ranks):
            def score(network):
                (tmp_path / f"{name}_scored{ranks.rank}").open("a").write("x")
                with torch.no_grad():
                    network(torch.zeros(1, 1, 8, 12, 8))
                calls = len((tmp_path / f"{name}_scored{ranks.rank}").read_text())
                return -abs(calls - 2.0) if ranks.leads else float(calls)

            def keep(folder, network, step, value):
                save_encoder(folder or tmp_path, network, {"step": step, "score": value}, folder is not None)

            return [Probe(score, keep, tmp_path / name)]

        return watchers

    mapping = toy(MIX, **SHORT, probe_every=2, shard=shard)
    assert train(mapping, "probed", 2, watchers=probed("probed")) == [0, 0], (tmp_path / "probed.txt").read_text()
    assert train(mapping, "plain", 2, watchers=lambda ranks: []) == [0, 0]
    assert forks.weights(tmp_path / "probed") == forks.weights(tmp_path / "plain")
    assert json.loads((tmp_path / "probed" / "best" / "encoder.json").read_text())["step"] == 4
    assert (tmp_path / "probed_scored0").read_text() == "xxxx"
    assert (tmp_path / "probed_scored1").exists() == (shard == "full"), "only of weights in parts"
