"""Every alarm is raised within 200 steps of a deliberate collapse, with advice, and ends the run where the recipe says so."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.keys import normal
from pipeline.step import Ask, Loss, Objective
from pipeline.training.health.alarms import RULES, Raised

PAIR = {"views": {"pair": {"augment": {}}}, "objectives": {"simclr": {"view": "pair"}}}
WITHIN = 200


def squeeze(loop, rank):
    """From now on the pooled features lie in ``rank`` directions around a point: none is a constant."""
    directions = torch.linalg.qr(normal(torch.arange(16), 16))[0][:, :rank]
    projection, centre = directions @ directions.T, torch.full((16,), 0.4)

    def squeezed(network, inputs, features):
        return replace(features, pooled=centre + (features.pooled - centre) @ projection)

    return loop.learner.network.register_forward_hook(squeezed)


@pytest.fixture
def drive(alarms):
    """Calls a loop's watcher as the loop does, on features of a network that does not learn: (alarm's name) -> steps that raised it."""

    def driven(loop, name, steps=70, norm=1.0, before=()):
        learner, health = loop.learner, loop.watchers[0]
        batch = loop.loader.batch
        seen = [learner.losses(loop.loader.region(batch * n), progress=0.0, step=0) for n in range(16 // batch)]
        for done in range(1, steps + 1):
            losses, step = seen[done % len(seen)]
            for at, act in before:
                if done == at:
                    act(loop)
            with torch.no_grad():
                student = {
                    v: tuple(learner.network(b.voxels, want=learner.wants["student"][v]) for b in step.views[v]) for v in step.student
                }
            loop.gradient_norm = torch.tensor(norm(done) if callable(norm) else norm)
            health.stepped(loop, done, replace(step, student=student), losses)
            if done % loop.training.journal_every == 0:
                health.journalled(loop, done)
        return [step for step, known, _ in alarms(loop) if known == name]

    return driven


@pytest.mark.parametrize(("rank", "name"), [(0, "constant"), (1, "rank_1"), (4, "low_rank")])
def test_features_in_few_directions_raise_an_alarm(rank, name, toy, make, alarms, drive):
    loop = make(toy(PAIR))
    squeeze(loop, rank)
    assert drive(loop, name)[0] <= WITHIN
    assert ("constant" in {known for _, known, _ in alarms(loop)}) == (rank == 0)


def test_full_features_of_the_same_network_raise_none(toy, make, alarms, drive):
    loop = make(toy(PAIR))
    assert drive(loop, "constant", steps=210) == []
    assert alarms(loop) == []


@pytest.mark.parametrize("journal_every", [10, 150])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_collapse_in_the_middle_of_a_run_raises_one_alarm(batch, journal_every, toy, make, drive):
    loop = make(toy(PAIR, batch=batch, steps=300, journal_every=journal_every))
    found = drive(loop, "low_rank", steps=300, before=[(80, lambda loop: squeeze(loop, 4))])
    assert len(found) == 1, "one collapse is told once"
    assert 80 < found[0] <= 80 + WITHIN


class Alike(Objective):
    """Asks that all crops have the same features: an objective that is descended best by a constant."""

    def asks(self):
        return (Ask("pair"),)

    def forward(self, step):
        pooled = torch.cat([features.pooled for features in step.student["pair"]])
        return Loss(1000 * (pooled - pooled.mean(0)).square().mean())


def swap(loop, objective):
    loop.learner.objectives = nn.ModuleDict({"own": objective})
    loop.learner.weights = {"own": 1.0}


def test_a_network_that_learns_to_collapse_raises_an_alarm(toy, make, alarms):
    loop = make(toy(PAIR, steps=160, learning_rate=0.05))
    swap(loop, Alike(None, None))
    loop.run({"run": "alike"})
    assert "constant" in {name for _, name, _ in alarms(loop)}


class Codes(Alike):
    """The same with codes of its own making: of 32 prototypes, or all of them, or one."""

    def __init__(self, codes):
        super().__init__(None, None)
        self.codes = codes

    def forward(self, step):
        return Loss(sum(features.pooled.square().mean() for features in step.student["pair"]))

    def health(self, step):
        count = len(step.ids.sample)
        even = torch.full((count, 32), 1 / 32)
        if self.codes == "uniform":
            return {"teacher_codes": even, "student_codes": even}
        chosen = step.ids.sample % 32 if self.codes == "healthy" else torch.zeros(count, dtype=torch.int64)
        sharp = torch.nn.functional.one_hot(chosen, 32).float() * 0.9 + 0.1 / 32
        return {"teacher_codes": sharp, "student_codes": even, "temperature": torch.tensor(0.04)}


@pytest.mark.parametrize(("codes", "name"), [("uniform", "uniform_codes"), ("dead", "dead_prototypes")])
def test_codes_that_say_nothing_raise_an_alarm(codes, name, toy, make, drive):
    loop = make(toy(PAIR))
    swap(loop, Codes(codes))
    assert drive(loop, name, steps=WITHIN)[0] <= WITHIN


def test_codes_that_say_something_raise_none_and_are_journalled(toy, make, alarms, drive):
    loop = make(toy(PAIR, journal_every=60))
    swap(loop, Codes("healthy"))
    drive(loop, "", steps=59)
    assert alarms(loop) == []
    last = loop.watchers[0].journalled(loop, 60)
    assert last["health/own/student_entropy"] == pytest.approx(1.0)
    assert 0.1 < last["health/own/teacher_entropy"] < 0.5
    assert last["health/own/temperature"] == pytest.approx(0.04)
    assert last["health/own/prototypes_used"] > 0.5


def test_a_restoration_that_gives_back_one_grey_raises_an_alarm(toy, make, drive):
    loop = make(toy({}))
    loop.learner.network.register_forward_hook(lambda network, inputs, features: replace(features, dense=features.dense * 1e-6))
    assert drive(loop, "constant_restoration")[0] <= WITHIN


@pytest.mark.parametrize("kept", [0.0, 1e-6])
def test_micro_batches_hide_no_collapse(kept, toy, make, alarms):
    """Of dense features, which are not kept: all crops alike, and answers that are one grey."""
    loop = make(toy({}, steps=60, micro_batch=1, learning_rate=1e-6))
    loop.learner.network.register_forward_hook(
        lambda network, inputs, features: replace(features, dense=features.dense * kept + (kept == 0))
    )
    loop.run({"run": "grey"})
    found = {(name, figure) for _, name, figure in alarms(loop)}
    assert ("constant_restoration", "restoration/contrast") in found
    assert (("constant", "altered/dense/variation") in found) == (kept == 0)


def test_a_gradient_that_explodes_raises_an_alarm(toy, make, alarms, drive):
    found = drive(make(toy({}), "a"), "exploding_gradient", steps=250, norm=lambda done: 0.1 if done <= 80 else 20.0)
    assert 80 < found[0] <= 80 + WITHIN
    assert drive(make(toy({}), "b"), "exploding_gradient", steps=250, norm=lambda done: 0.1 if done <= 80 else 2.0) == []


def test_the_recipe_may_end_the_run_and_the_message_says_what_to_change(toy, make, alarms, capfd):
    loop = make(toy(PAIR, on_alarm="stop", steps=70))
    squeeze(loop, 0)
    with pytest.raises(Raised, match=r"constant: every crop has the same features .* What to change: lower training\.learning_rate"):
        loop.run({"run": "stopped"})
    assert alarms(loop)[0][0] == 60
    assert "ALARM at step 60: constant" in capfd.readouterr().err


def test_every_rule_says_what_it_means_and_what_to_change():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.meaning and rule.advice for rule in RULES)
