"""Precision, memory format and compiled kernels: what they change and what they must not."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.training.distributed.layout import place, synchronise_norms
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.distributed.sharded import clip, settled, whole
from pipeline.training.micro import micro_batches
from pipeline.training.scale import GROWTH, INTERVAL, START, LossScale

made = runpy.run_path(str(Path(__file__).with_name("ranks_of_learners.py")))
make, unplaced, region, BATCH = made["make"], made["unplaced"], made["region"], made["BATCH"]
MIX = ("simclr", "restoration")


def gradients(learner, micro=BATCH):
    learner.train()
    losses, _ = learner.backward(micro_batches(region(), micro))
    return losses, {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_gives_nearly_the_gradients_of_float32(precision):
    exact_losses, exact = gradients(make(MIX))
    losses, found = gradients(make(MIX, precision=precision), micro=4)
    assert found.keys() == exact.keys()
    one, other = (torch.cat([g.flatten() for g in each.values()]) for each in (found, exact))
    assert all(g.dtype == torch.float32 for g in found.values())
    assert torch.cosine_similarity(one, other, dim=0) > 0.99
    assert one.norm() == pytest.approx(float(other.norm()), rel=0.1), "gradients must leave the learner unscaled"
    for name in MIX:
        assert float(losses[name].value.detach()) == pytest.approx(float(exact_losses[name].value.detach()), rel=0.05)
        assert float(losses[name].metrics["gradient_norm"]) == pytest.approx(float(exact_losses[name].metrics["gradient_norm"]), rel=0.1)


def test_small_gradients_survive_float16_only_because_the_loss_is_scaled():
    learner = make(["restoration"], precision="fp16")
    learner.weights["restoration"] = 1e-6
    _, kept = gradients(learner)
    learner.zero_grad()
    learner.scale.factor.fill_(1.0)
    _, lost = gradients(learner)
    name = "network.encoder.0.0.conv.weight"
    assert kept[name].abs().min() > 0
    assert (lost[name] == 0).float().mean() > 0.5


def test_the_scale_follows_the_rule_of_a_grad_scaler_and_its_state_is_the_learners():
    learner = make(["restoration"], precision="fp16")
    assert learner.state_dict()["scale.factor"] == START
    assert "scale.factor" not in make(["restoration"]).state_dict()
    learner.weights["restoration"] = 1e30
    _, found = gradients(learner)
    assert not all(torch.isfinite(g).all() for g in found.values()), "the loop must see what it has to skip"
    assert learner.scale.factor == START / 2
    theirs = torch.amp.GradScaler("cpu", init_scale=START, growth_interval=INTERVAL)
    ours, theirs_factor = LossScale(), theirs.scale(torch.ones(()))
    tracker = torch.zeros((), dtype=torch.int32)
    for step in range(2 * INTERVAL + 50):
        fine = step not in (3, 4, INTERVAL + 20)
        ours.move(torch.tensor(fine))
        torch._amp_update_scale_(theirs_factor, tracker, torch.tensor(0.0 if fine else 1.0), GROWTH, 0.5, INTERVAL)
        assert ours.factor == theirs_factor, step


def test_channels_last_changes_the_layout_and_not_the_result():
    plain, other = make(MIX), make(MIX, channels_last=True)
    weight = other.network.encoder[1][0].conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert other._encode(other.network, other.look(region())["masked"][0], frozenset({"dense"})).dense.is_contiguous(
        memory_format=torch.channels_last_3d
    )
    (_, expected), (_, found) = gradients(plain), gradients(other)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)
    assert {name: value.shape for name, value in other.state_dict().items()} == {n: v.shape for n, v in plain.state_dict().items()}


def test_a_compiled_network_is_one_graph_with_the_same_names_and_gradients(monkeypatch):
    """Traced, not translated into kernels: that needs a compiler and a minute."""
    compiled, compile_ = [], nn.Module.compile

    def traced(self, **how):
        compiled.append(how)
        compile_(self, backend="eager", fullgraph=True, **how)

    monkeypatch.setattr(nn.Module, "compile", traced)
    plain, other = make(MIX), make(MIX, compile=True)
    assert compiled == [{"dynamic": False}]
    assert other.state_dict().keys() == plain.state_dict().keys()
    (_, expected), (_, found) = gradients(plain), gradients(other)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_settings_that_were_never_tried_together_are_refused():
    learner, settings = unplaced(MIX, compile=True, shard="full")
    with pytest.raises(ValueError, match=r"training\.compile: together with training\.shard"):
        place(learner, settings, Ranks())


def test_batch_norm_is_synchronised_on_gpus_and_refused_where_it_cannot_be():
    learner = make(["restoration"])
    synchronise_norms(learner, Ranks(0, 2, 0, torch.device("cpu")))  # none is there
    learner.objectives["restoration"].norm = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match=r"objectives\.restoration\.norm: is a batch norm"):
        synchronise_norms(learner, Ranks(0, 2, 0, torch.device("cpu")))
    keys = learner.state_dict().keys()
    synchronise_norms(learner, Ranks(0, 2, 0, torch.device("cuda")))
    assert isinstance(learner.objectives["restoration"].norm, nn.SyncBatchNorm)
    assert learner.state_dict().keys() == keys


def test_one_process_shards_nothing():
    learner = make(["restoration"], shard="full")
    state = learner.state_dict()
    assert all(type(p) is nn.Parameter for p in learner.parameters())
    assert all(whole(state)[name] is value for name, value in state.items())
    assert all(settled(state, state)[name] is value for name, value in state.items())
    assert whole(state, keep=False) == {}


def test_clipping_is_pytorchs_where_nothing_is_sharded():
    one = nn.Linear(3, 2)
    one.weight.grad, one.bias.grad = torch.full((2, 3), 3.0), torch.full((2,), 4.0)
    norm = clip(one.parameters(), 1.0)
    assert float(norm) == pytest.approx((6 * 9 + 2 * 16) ** 0.5)
    assert float(clip(one.parameters(), 1.0)) == pytest.approx(1.0, rel=1e-5)
