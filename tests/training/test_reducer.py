"""When gradients are sent: while backward runs, in one order, once a step; also where a recipe never reaches a part of the network."""

import pytest
import torch
from torch import nn

from pipeline.training.distributed import reducer
from pipeline.training.distributed.ranks import Ranks
from pipeline.training.distributed.reducer import Reducer

RANKS = Ranks(0, 2, 0, torch.device("cpu"))


class Sent:
    def wait(self):
        pass


@pytest.fixture
def wire(monkeypatch):
    """What is sent, and which gradients are there by then. The other rank's gradients are three times ours."""
    sent = []

    def all_reduce(tensor, async_op):
        assert async_op
        sent.append(tensor.numel())
        tensor *= 4
        return Sent()

    monkeypatch.setattr(reducer.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(reducer, "BUCKET_BYTES", 1)  # a bucket for each parameter
    return sent


def make(unused=False):
    layers = nn.Sequential(*(nn.Linear(n, n + 1, bias=False) for n in (2, 3, 4)))
    layers.unused = nn.Linear(7, 1) if unused else None
    head = nn.Parameter(torch.ones(3))
    return layers, head, Reducer(RANKS, [head], [p for p in layers.parameters()])


def backward(layers, head, one):
    layers.zero_grad()
    head.grad = torch.full((3,), 2.0)
    one.arm()
    layers[:3](torch.ones(1, 2)).sum().backward()


def test_each_bucket_is_sent_as_soon_as_it_is_complete_heads_first(wire):
    layers, head, one = make()
    seen = []
    layers[0].weight.register_hook(lambda gradient: seen.append(list(wire)))
    backward(layers, head, one)
    assert seen == [[3, 20, 12]], "before the first layer's gradient is there, those of the later layers are on their way"
    assert wire == [3, 20, 12, 6]


def test_gradients_are_means_over_the_ranks(wire):
    layers, head, one = make()
    backward(layers, head, one)
    own = {name: p.grad.clone() for name, p in layers.named_parameters()}
    one.finish()
    assert head.grad.tolist() == [4.0] * 3
    for name, parameter in layers.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * own[name])


def test_micro_batches_before_the_last_send_nothing(wire):
    layers, head, one = make()
    layers(torch.ones(1, 2)).sum().backward()
    assert wire == []
    one.arm()
    layers(torch.ones(1, 2)).sum().backward()
    one.finish()
    assert wire == [20, 12, 6]
    assert head.grad is None


def test_what_no_objective_reaches_holds_nothing_up_after_the_first_step(wire):
    layers, head, one = make(unused=True)
    backward(layers, head, one)
    one.finish()
    assert wire == [3, 20, 12, 6]
    wire.clear()
    backward(layers, head, one)
    assert wire == [3, 20, 12, 6], "sent during backward, not at its end"
    one.finish()
    assert layers.unused.weight.grad is None


def test_a_gradient_that_comes_too_late_is_no_silent_error(wire):
    layers, head, one = make(unused=True)
    backward(layers, head, one)
    one.finish()
    one.arm()
    layers[:3](torch.ones(1, 2)).sum().backward()
    with pytest.raises(AssertionError, match="after its bucket was sent"):
        layers.unused(torch.ones(1, 7)).sum().backward()


def test_small_gradients_share_a_bucket(monkeypatch):
    monkeypatch.setattr(reducer, "BUCKET_BYTES", 100)
    _, _, one = make()
    assert [sum(p.numel() for p in bucket) for bucket in one.buckets] == [3, 32, 6]


def test_one_process_sends_nothing(wire):
    layers = nn.Linear(2, 2)
    one = Reducer(Ranks(), [], layers.parameters())
    one.arm()
    layers(torch.ones(1, 2)).sum().backward()
    one.finish()
    assert wire == []
