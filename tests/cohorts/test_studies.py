"""Every study under configs/studies can be planned."""

from pathlib import Path

import pytest

from pipeline.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_can_be_planned(path):
    plan = make_plan(path.relative_to(ROOT))
    assert plan.study["name"] == path.stem
    assert any(transfer.initialisation == "scratch" for transfer in plan.transfers)
    assert all(source["origin"] != "the user's own scans" and source["licence"] != "not stated" for source in plan.study["sources"])


def test_the_demo_is_what_its_users_were_promised():
    plan = make_plan("configs/studies/demo.yaml")
    finetune = plan.study["finetune"]
    assert (finetune["num_labels"], finetune["seeds"], finetune["steps"]) == ([2, 8], [0, 1, 2], 150)
    assert {recipe["training"]["steps"] for recipe in plan.recipes.values()} == {300}
    assert [transfer.initialisation for transfer in plan.transfers] == ["scratch", "restoration", "transvw"]
    labelled = plan.study["sample"]["embedded"].get("subjects", 24)
    assert labelled - plan.study["split"]["test"] - plan.study["split"]["validation"] >= max(finetune["num_labels"])


def test_nothing_exploratory_is_planned_and_ids_agree_with_the_main_study():
    explore, main = (make_plan(f"configs/studies/{name}.yaml") for name in ("hippocampus_explore", "hippocampus"))
    assert not any(comparison["planned"] for comparison in explore.comparisons)
    assert [c["initialisation"] for c in main.comparisons if not c["planned"]] == ["scratch_4x"]
    for key in ("identity", "split", "preprocess", "sample", "data", "sources"):
        assert explore.study[key] == main.study[key], key
