"""Fine-tuning continues where it was killed, treats every initialisation alike, and refuses what would not be honest."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.files import digest, read_json
from pipeline.tracking.journal import read_journal
from pipeline.transfer.cells import Cell
from pipeline.transfer.finetune import Finetuning, finetune


def transfer(plan, name):
    return next(t for t in plan.transfers if t.initialisation == name)


def run(plan, where, name="scratch"):
    return finetune(plan, where, transfer(plan, name))


def cells(where, plan, name):
    return sorted((where.transfer(transfer(plan, name).transfer) / "cells").glob("*.json"))


def test_every_cell_is_a_file_and_the_table_holds_every_case(tiny):
    plan, where = tiny
    table = pd.read_parquet(run(plan, where))
    assert [path.name for path in cells(where, plan, "scratch")] == ["1-s0.json", "1-s1.json", "4-s0.json", "4-s1.json"]
    assert len(table) == 4 * (2 + 3) * 2
    assert table.groupby("num_labels")["is_all"].first().to_dict() == {1: False, 4: True}
    assert set(table["class_name"]) == {"grey", "white"}
    assert set(table.loc[table["split"] == "test", "scan_id"]) == {"t0", "t1", "t2"}
    assert set(table["pretrain_seed"]) == {-1}
    assert table["dice"].between(0, 1).all()


def test_a_missing_cell_alone_is_run_again_and_the_table_has_the_same_bytes(tiny):
    plan, where = tiny
    path = run(plan, where, "restoration")
    before, journal = digest(path), where.transfer(transfer(plan, "restoration").transfer) / "journal.jsonl"
    lines = journal.read_bytes()
    paths = cells(where, plan, "restoration")
    kept = {p: p.stat().st_mtime_ns for p in paths if p != paths[1]}
    content = paths[1].read_bytes()
    paths[1].unlink()
    path.unlink()
    assert digest(run(plan, where, "restoration")) == before
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert paths[1].read_bytes() == content
    assert journal.read_bytes() == lines


def test_cells_are_made_again_when_weights_or_labels_changed(tiny):
    plan, where = tiny
    run(plan, where, "restoration")
    first = read_json(cells(where, plan, "restoration")[0])["settings_digest"]
    weights = where.run(transfer(plan, "restoration").runs[0]) / "model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(weights).items()}, weights)
    run(plan, where, "restoration")
    assert read_json(cells(where, plan, "restoration")[0])["settings_digest"] != first
    starts = [e for e in read_journal(where.transfer(transfer(plan, "restoration").transfer) / "journal.jsonl") if e["kind"] == "start"]
    assert len(starts) == 1


def test_the_journal_counts_steps_over_all_cells_and_keeps_test_figures_out(tiny):
    plan, where = tiny
    run(plan, where)
    entries = read_journal(where.transfer(transfer(plan, "scratch").transfer) / "journal.jsonl")
    assert entries[0]["kind"] == "start"
    assert [e["step"] for e in entries if e["kind"] == "train"] == list(range(1, 17))
    assert [e["step"] for e in entries if e["kind"] == "evaluate"] == [4, 8, 12, 16]
    assert entries[-1]["kind"] == "end"
    assert not any("test" in name for e in entries for name in e.get("metrics", {}))


def test_every_initialisation_begins_with_the_same_head_and_only_what_is_loaded_differs(tiny):
    plan, where = tiny
    cell = {name: Cell(1, 0, 4, 1e-3, (transfer(plan, name).runs or (None,))[0]) for name in ("scratch", "restoration", "frozen")}
    states = {name: Finetuning(plan, where, transfer(plan, name))._model(cell[name]).state_dict() for name in cell}
    loaded = load_file(where.run(cell["restoration"].run) / "model.safetensors")
    for name in states["scratch"]:
        own = name.removeprefix("network.")
        of_encoder = own.startswith("encoder.")
        assert torch.equal(states["restoration"][name], loaded[own] if own in loaded else states["scratch"][name])
        assert torch.equal(states["frozen"][name], loaded[own] if of_encoder else states["scratch"][name])
    assert not torch.equal(states["scratch"]["network.encoder.0.0.conv.weight"], states["restoration"]["network.encoder.0.0.conv.weight"])
    assert Finetuning(plan, where, transfer(plan, "restoration"))._model(cell["restoration"]).network.skips


def test_a_frozen_encoder_keeps_its_weights_and_the_rest_learns(tiny, monkeypatch):
    plan, where = tiny
    kept = []
    original = Finetuning._model
    monkeypatch.setattr(Finetuning, "_model", lambda self, cell: kept.append(original(self, cell)) or kept[-1])
    run(plan, where, "frozen")
    loaded = load_file(where.run(transfer(plan, "frozen").runs[0]) / "encoder.safetensors")
    state = kept[0].network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in loaded.items())
    begun = original(Finetuning(plan, where, transfer(plan, "frozen")), Cell(1, 0, 4, 1e-3, transfer(plan, "frozen").runs[0]))
    assert not torch.equal(kept[0].head.weight, begun.head.weight)


def test_the_search_is_judged_on_validation_and_its_choice_is_used(tiny, replan):
    grid = {"num_labels": 2, "learning_rates": [1e-5, 3e-2], "lengths": [1, 5], "seeds": [0]}
    plan, where = replan(search=grid, steps=3, num_labels=[2], seeds=[0]), tiny[1]
    run(plan, where)
    found = read_json(where.transfer(transfer(plan, "scratch").transfer) / "search.json")
    best = max(found["tried"], key=lambda item: item["dice_validation"])
    assert len(found["tried"]) == 4
    assert found["chosen"] == best
    value = read_json(cells(where, plan, "scratch")[0])
    assert (value["cell"]["learning_rate"], value["cell"]["steps"]) == (best["learning_rate"], 3 * best["length"])
    assert best["learning_rate"] == 3e-2
    tried = sorted((where.transfer(transfer(plan, "scratch").transfer) / "search").glob("*.json"))
    assert all("test" not in read_json(path) for path in tried)
    assert len(tried) == 4


def test_fine_tuning_learns_the_structures(tiny, replan):
    plan, where = replan(steps=60, num_labels=["all"], seeds=[0], learning_rate=2e-2), tiny[1]
    table = pd.read_parquet(run(plan, where))
    assert table.loc[table["split"] == "test", "dice"].mean() > 0.6


def edit_manifest(where, **changes):
    frame = pd.read_parquet(where.manifest)
    for scan_id, values in changes.items():
        for column, value in values.items():
            frame.loc[frame["scan_id"] == scan_id, column] = value
    frame.to_parquet(where.manifest, index=False)


def test_a_test_subject_among_the_labels_is_refused(tiny):
    plan, where = tiny
    edit_manifest(where, t0={"cluster_id": "ca1"})
    with pytest.raises(ValueError, match="ca1"):
        run(plan, where)


@pytest.mark.parametrize(("cluster", "of"), [("ct1", "test subjects"), ("cv0", "validation subjects")])
def test_a_held_out_subject_in_the_pool_of_a_run_is_refused(tiny, cluster, of):
    plan, where = tiny
    path = where.run(transfer(plan, "restoration").runs[0]) / "run.json"
    path.write_text(json.dumps({**read_json(path), "clusters": ["ca0", cluster]}))
    with pytest.raises(ValueError, match=rf"{cluster}.*{of}"):
        run(plan, where, "restoration")
    run(plan, where, "scratch")


def test_a_run_of_another_manifest_or_without_weights_is_refused(tiny):
    plan, where = tiny
    folder = where.run(transfer(plan, "restoration").runs[0])
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors.*pretrain"):
        run(plan, where, "restoration")
    edit_manifest(where, a0={"digest": "another"})
    with pytest.raises(ValueError, match="another manifest"):
        run(plan, where, "restoration")


@pytest.mark.parametrize("load", ["all", "encoder"])
def test_weights_that_do_not_fit_are_refused(tiny, load):
    plan, where = tiny
    name = {"all": "restoration", "encoder": "frozen"}[load]
    path = where.run(transfer(plan, name).runs[0]) / {"all": "model.safetensors", "encoder": "encoder.safetensors"}[load]
    state = load_file(path)
    first = sorted(state)[0]
    save_file({**state, first: torch.zeros(1, 2, 3)}, path)
    with pytest.raises(ValueError, match=first.replace(".", r"\.")):
        run(plan, where, name)


def test_different_networks_and_a_study_without_scratch_are_refused(tiny, replan):
    plan, where = tiny
    recipes = {
        **plan.recipes,
        "wide": {**plan.recipes["restoration"], "network": {"unet": {**plan.recipes["restoration"]["network"]["unet"], "widths": [8, 8]}}},
    }
    odd = {**plan.study, "initialisations": {**plan.study["initialisations"], "wide": {"recipe": "wide"}}}
    with pytest.raises(ValueError, match="different networks"):
        run(replace(plan, recipes=recipes, study=odd), where)
    without = {name: v for name, v in plan.study["initialisations"].items() if name != "scratch"}
    with pytest.raises(ValueError, match="scratch"):
        run(replace(plan, study={**plan.study, "initialisations": without}), where, "restoration")
    with pytest.raises(ValueError, match="num_labels: 9"):
        run(replan(num_labels=[9]), where)
    with pytest.raises(ValueError, match="primary_max_labels"):
        run(replan(num_labels=[2], primary=1), where)


def test_a_label_value_without_a_name_is_refused(tiny):
    plan, where = tiny
    edit_manifest(where, a0={"labels": json.dumps({"tissue": [0, 1, 2, 9]})})
    with pytest.raises(ValueError, match="label value 9"):
        run(plan, where)


def test_results_are_finite_numbers_with_six_digits(tiny):
    plan, where = tiny
    run(plan, where)
    value = read_json(cells(where, plan, "scratch")[0])
    figures = [dice for classes in value["test"].values() for dice in classes.values()]
    assert np.allclose(figures, np.round(figures, 6), atol=0)


def test_a_control_takes_what_another_search_chose_and_searches_nothing(tiny, control):
    where = tiny[1]
    scratch, longer = control.transfers
    with pytest.raises(ValueError, match="no search yet"):
        finetune(control, where, longer)
    finetune(control, where, scratch)
    finetune(control, where, longer)
    chosen = read_json(where.transfer(scratch.transfer) / "search.json")["chosen"]
    cell = read_json(cells(where, control, "longer")[0])["cell"]
    assert (cell["learning_rate"], cell["steps"]) == (chosen["learning_rate"], 3 * 4 * chosen["length"])
    assert not (where.transfer(longer.transfer) / "search").exists()
