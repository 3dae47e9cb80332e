"""The mirror pushes what is new, once; a store that was lost or never reached is made from the files alone."""

import json
import shutil
import sqlite3
import subprocess
import sys

import pytest

from pipeline.files import write_json
from pipeline.plan import LexiconPlan, Plan, Run, Transfer, plan_json
from pipeline.tracking.journal import Journal
from pipeline.verbs import mirror as verb

RUN = "restoration-s0-0123456789"
TRANSFER = "task-restoration-0123456789"


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "results" / "tiny"
    plan = Plan(
        version="0.1.0",
        study={"name": "tiny", "tracking": {"uri": None}, "initialisations": {"scratch": {}, "restoration": {"recipe": "restoration"}}},
        recipes={"restoration": {"name": "restoration"}}, tasks={"task": {}}, shards=("00",),
        runs=(Run(RUN, "restoration", 0, None, None, ()),), lexicons=(LexiconPlan("lexicon", RUN, "restoration"),),
        transfers=(Transfer(TRANSFER, "task", "restoration", (RUN,), True), Transfer("task-scratch-1", "task", "scratch", (), True)),
        comparisons=(), inputs={}, results=str(folder),
    )  # fmt: skip
    write_json(folder / "plan.json", plan_json(plan))
    write_json(
        folder / "runs" / RUN / "run.json",
        {"recipe_digest": "r", "manifest_digest": "m", "version": "0.1.0", "resolved": {"training": {"steps": 20}}},
    )
    journal = Journal(folder / "runs" / RUN / "journal.jsonl")
    journal.write("start", run=RUN, seed=0)
    for step in (10, 20):
        journal.write("train", step=step, metrics={"loss": 1.0 / step, "restoration/loss": 0.5})
    journal.write("evaluate", step=20, metrics={"loss": 0.25})
    Journal(folder / "transfers" / TRANSFER / "journal.jsonl").write("train", step=5, metrics={"loss": 2.0})
    (folder / "verdict.tsv").write_text(
        "task\tinitialisation\tnum_labels\tdice_mean\tdiff_mean\tci_low\tci_high\tp_raw\tp_holm\ntask\trestoration\t8\t0.8\t0.01\t-0.02\t0.03\t0.4\t\n"
    )
    return folder


def points(folder):
    with sqlite3.connect(folder / "mlflow.db") as store:
        rows = store.execute(
            "select t.value, m.key, m.step, m.value from metrics m join tags t on t.run_uuid = m.run_uuid and t.key = 'vesalius.key' "
            "join runs r on r.run_uuid = m.run_uuid and r.lifecycle_stage = 'active'"
        )
        return sorted(rows)


def test_curves_and_verdict_arrive_under_the_recipes_parent(study):
    verb.run(study, also=None)
    found = points(study)
    assert (f"run:{RUN}", "loss", 20, 0.05) in found
    assert (f"run:{RUN}", "validation/loss", 20, 0.25) in found
    assert (f"transfer:{TRANSFER}", "loss", 5, 2.0) in found
    for place in ("parent:restoration", f"transfer:{TRANSFER}"):
        assert (place, "verdict/task/8/dice_mean", 0, 0.8) in found
    with sqlite3.connect(study / "mlflow.db") as store:
        parents = dict(
            store.execute(
                "select t.value, p.value from tags t join tags p on p.run_uuid = t.run_uuid "
                "where t.key = 'vesalius.key' and p.key = 'mlflow.parentRunId'"
            )
        )
        ids = dict(store.execute("select value, run_uuid from tags where key = 'vesalius.key'"))
    assert parents == {f"run:{RUN}": ids["parent:restoration"], f"transfer:{TRANSFER}": ids["parent:restoration"]}


def status(folder):
    with sqlite3.connect(folder / "mlflow.db") as store:
        return dict(
            store.execute("select t.value, r.status from tags t join runs r on r.run_uuid = t.run_uuid where t.key = 'vesalius.key'")
        )


def test_a_parent_ends_when_all_under_it_have_and_the_verdict_stands_above(study):
    verb.run(study, also=None)
    assert status(study)["parent:restoration"] == "RUNNING"
    (study / "runs" / RUN / "encoder.safetensors").touch()
    (study / "transfers" / TRANSFER / "cases.parquet").touch()
    write_json(study / "verdict.json", {"sentences": ["nothing was significant"], "stamps": []})
    verb.run(study, also=None)
    assert status(study)["parent:restoration"] == "FINISHED"
    with sqlite3.connect(study / "mlflow.db") as store:
        tags = dict(store.execute("select key, value from experiment_tags"))
    assert tags == {"mlflow.note.content": "- nothing was significant", "mlflow.experimentKind": "custom_model_development"}


def test_a_second_push_adds_nothing_and_later_steps_are_added(study):
    verb.run(study, also=None)
    first = points(study)
    verb.run(study, also=None)
    assert points(study) == first
    Journal(study / "runs" / RUN / "journal.jsonl").write("train", step=30, metrics={"loss": 0.01})
    verb.run(study, also=None)
    assert set(points(study)) - set(first) == {(f"run:{RUN}", "loss", 30, 0.01)}


def test_rebuild_makes_the_same_store_from_the_files_alone(study):
    verb.run(study, also=None)
    first = points(study)
    (study / "mlflow.db").write_bytes(b"lost")
    subprocess.run([sys.executable, "-m", "pipeline", "mirror", str(study), "--rebuild"], check=True)
    assert points(study) == first


def test_a_dead_server_changes_nothing_and_what_it_missed_is_pushed_later(study, capsys):
    plan = json.loads((study / "plan.json").read_text())
    plan["study"]["tracking"]["uri"] = "http://127.0.0.1:9"
    write_json(study / "plan.json", plan)
    verb.run(study, also=None)
    assert "was not reached" in capsys.readouterr().err
    assert json.loads((study / "mirror.json").read_text()) == {"complete": False}
    plan["study"]["tracking"]["uri"] = None
    write_json(study / "plan.json", plan)
    verb.run(study, also=None)
    assert (f"run:{RUN}", "loss", 20, 0.05) in points(study)


def test_journals_of_another_machine_land_in_one_store(study, tmp_path):
    other = tmp_path / "copy"
    journal = Journal(other / "transfers" / "task-scratch-1" / "journal.jsonl")
    journal.write("train", step=5, metrics={"loss": 3.0})
    verb.run(study, also=[other])
    assert ("transfer:task-scratch-1", "loss", 5, 3.0) in points(study)
    assert (f"run:{RUN}", "loss", 20, 0.05) in points(study)


def test_after_going_back_the_curve_is_the_final_one_and_an_older_copy_takes_nothing_back(study, tmp_path):
    shutil.copytree(study, tmp_path / "copy")
    verb.run(study, also=None)
    journal = Journal(study / "runs" / RUN / "journal.jsonl")
    first, second, *_ = journal.path.read_bytes().splitlines(keepends=True)
    journal.truncate(len(first) + len(second))  # as a run does that goes back to its checkpoint of step 10
    journal.write("note", step=10, text="went back from step 20 to 10", first_sample=80, skipped=[])
    for step, loss in ((20, 0.7), (30, 0.6)):
        journal.write("train", step=step, metrics={"loss": loss})
    for _ in range(2):
        verb.run(study, also=[tmp_path / "copy"])
        curve = [(step, value) for key, name, step, value in points(study) if (key, name) == (f"run:{RUN}", "loss")]
        assert curve == [(10, 0.1), (20, 0.7), (30, 0.6)]
    with sqlite3.connect(study / "mlflow.db") as store:
        rows = store.execute(
            "select r.lifecycle_stage, count(d.key) from runs r join tags t on t.run_uuid = r.run_uuid and t.key = 'vesalius.key' "
            "left join tags d on d.run_uuid = r.run_uuid and d.key = 'vesalius.recipe_digest' "
            "where t.value like 'run:%' group by r.run_uuid"
        )
        assert sorted(rows) == [("active", 1), ("deleted", 1)], "one was replaced, once, with all that stands beside the curve"
