"""No alarm on healthy runs: every objective, and every recipe of configs/recipes, at toy size; and what their journals say."""

from pathlib import Path

import pytest

from pipeline.configuration import read_yaml
from pipeline.plugins import names

RECIPES = sorted((Path(__file__).resolve().parents[3] / "configs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_healthy_run_of_a_recipe_raises_no_alarm_and_says_how_its_features_are(path, toy, make, alarms, lines):
    loop = make(toy(read_yaml(path)))
    loop.run({"run": path.stem})
    assert alarms(loop) == []
    last = lines(loop)[60]
    for view in loop.learner.wants["student"]:
        assert 1 <= last[f"health/{view}/pooled/rank"] <= 16
        assert 1 < last[f"health/{view}/pooled/rank_within"] <= 16
        assert last[f"health/{view}/pooled/spread"] > 0
        assert 0 < last[f"health/{view}/pooled/outside_4"] < last[f"health/{view}/pooled/outside_1"] < 1


@pytest.mark.parametrize("name", names("objectives"))
def test_a_healthy_run_of_an_objective_raises_no_alarm(name, toy, make, alarms, lines):
    words = {"encoder": "other", "sizes_vox": [[8, 12, 8]]}
    views = {"altered": {"corrupt": {}}, "pair": {"augment": {}}}
    mapping = {"views": views, "crops": {"words": {}}, "words": words}
    loop = make(toy({**mapping, "objectives": {name: {"view": "altered"}}}))
    if wants_two(loop):
        loop = make(toy({**mapping, "objectives": {name: {"view": "pair"}}}))
    loop.run({"run": name})
    assert alarms(loop) == []
    assert len(lines(loop)) == 6


def wants_two(loop):
    """Whether the objective refuses a view with one crop a sample."""
    try:
        loop.learner.losses(loop.loader.region(0))
    except ValueError as error:
        return "not two" in str(error)
    return False
