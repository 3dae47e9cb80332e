"""The verdict: planned figures against scratch, and nothing called significant that is not."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from pipeline.files import digest, read_json
from pipeline.manifest import read_manifest
from pipeline.transfer.cells import cases_table, plan_cells, write_cases
from pipeline.transfer.labelled import labelled_scans
from pipeline.transfer.results import SizeResults
from pipeline.transfer.table import make_verdict, pretrain_steps
from pipeline.transfer.verdict import COLUMNS, TaskVerdict, correct, sentence, significant
from pipeline.verbs import verdict as verb

GAINS = {"scratch": 0.0, "restoration": 0.1, "frozen": -0.05}


def dice_of(name, number, seed, scan, class_name):
    generator = np.random.default_rng([number, seed, sum(map(ord, name + scan + class_name))])
    return round(float(0.5 + 0.05 * number + GAINS[name] * (number < 4) + 0.01 * generator.standard_normal()), 6)


def write_results(plan, where, change=lambda name, frame: frame):
    """Results as fine-tuning would leave them, with a known gain for each initialisation."""
    scans, study = labelled_scans(read_manifest(where.manifest), "tissue"), plan.study_value()
    for transfer in plan.transfers:
        name = transfer.initialisation
        cells = plan_cells(study.finetune, study.initialisations[name], transfer.runs, 4, 1e-3, 1.0)
        values = [
            {"cell": vars(cell), **{split: {scan: {c: dice_of(name, cell.num_labels, cell.seed, scan, c) for c in ("grey", "white")}
                                            for scan in scans[split]["scan_id"]} for split in ("validation", "test")}}
            for cell in cells
        ]  # fmt: skip
        frame = cases_table("tissue", name, values, scans, dict.fromkeys(transfer.runs, 0))
        write_cases(change(name, frame), where.cases(transfer.transfer))


def row(table, name, size):
    return table[(table["initialisation"] == name) & (table["num_labels"].astype(str) == str(size))].iloc[0]


def test_the_table_has_the_columns_and_the_planned_rows_only_are_corrected(tiny):
    plan, where = tiny
    write_results(plan, where)
    make_verdict(plan, where)
    table = pd.read_csv(where.verdict, sep="\t", dtype={"num_labels": str})
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 3 * 3
    assert table.loc[table["planned"], ["initialisation", "num_labels"]].to_numpy().tolist() == [["restoration", "primary"]]
    assert table["p_holm"].notna().tolist() == table["planned"].tolist()
    assert table.loc[table["initialisation"] == "scratch", ["diff_mean", "ci_low", "p_raw", "wins"]].isna().all().all()
    assert row(table, "restoration", 1)["pretrain_steps"] == 7
    assert row(table, "scratch", "primary")["pretrain_steps"] == 0
    assert row(table, "restoration", "primary")["finetune_steps"] == 8
    assert (table["num_cases"] == 3).all()


def test_figures_are_paired_means_by_hand(tiny):
    plan, where = tiny
    write_results(plan, where)
    table, _ = make_verdict(plan, where)
    scans, classes = ("t0", "t1", "t2"), ("grey", "white")

    def subject(name, number, scan):
        return np.mean([dice_of(name, number, seed, scan, c) for seed in (0, 1) for c in classes])

    differences = {n: [subject("restoration", n, s) - subject("scratch", n, s) for s in scans] for n in (1, 4)}
    assert row(table, "restoration", 1)["diff_mean"] == pytest.approx(np.mean(differences[1]))
    assert row(table, "restoration", "primary")["diff_mean"] == pytest.approx(np.mean([differences[1], differences[4]]))
    assert row(table, "restoration", "primary")["dice_mean"] == pytest.approx(
        np.mean([subject("restoration", n, s) for n in (1, 4) for s in scans])
    )
    both = np.mean([differences[1], differences[4]], axis=0)
    sums = [abs(np.dot(signs, both)) for signs in itertools.product((1, -1), repeat=3)]
    assert row(table, "restoration", "primary")["p_raw"] == np.mean(np.array(sums) >= abs(both.sum()) - 1e-12)
    assert row(table, "restoration", "primary")["wins"] == 3
    assert row(table, "restoration", 1)["ci_low"] <= np.mean(differences[1]) <= row(table, "restoration", 1)["ci_high"]


def test_three_subjects_cannot_be_significant_and_the_sentence_says_so(tiny):
    plan, where = tiny
    write_results(plan, where)
    _, beside = make_verdict(plan, where)
    assert len(beside["sentences"]) == 2
    assert "NOT significant" in beside["sentences"][0]
    assert "exploratory" in beside["sentences"][1]
    table = pd.read_csv(where.verdict, sep="\t")
    assert table["significant"].notna().tolist() == (table["initialisation"] != "scratch").tolist()
    assert not table["significant"].eq(True).any()
    item = read_json(where.root / "verdict.json")["tasks"]["tissue"]["initialisations"]["restoration"]
    assert item["primary"]["smallest_p"] == 0.25
    assert item["primary"]["detectable_corrected"] is None
    assert "no difference could be significant" in beside["sentences"][0]
    assert [point["num_labels"] for point in item["curve"]] == [1, 4]
    assert item["curve"][1]["is_all"]
    assert item["curve"][0]["num_validation_labels"] == 2


def test_labels_saved_are_found_on_the_curve(tiny):
    plan, where = tiny
    write_results(plan, where, lambda name, frame: frame.assign(dice=frame["dice"].mask(
        (name == "restoration") & (frame["num_labels"] == 4), 0.9)))  # fmt: skip
    _, beside = make_verdict(plan, where)
    items = beside["tasks"]["tissue"]["initialisations"]
    low, goal = (items[name]["curve"][i]["dice_mean"] for name, i in (("restoration", 0), ("scratch", 1)))
    labels = 2 ** (2 * (goal - low) / (0.9 - low))
    assert items["restoration"]["labels_saved"]["value"] == pytest.approx(1 - labels / 4, abs=1e-4)
    assert items["scratch"]["labels_saved"] is None


def test_empty_structures_are_counted_and_left_out(tiny):
    plan, where = tiny

    def emptied(name, frame):
        gone = (frame["scan_id"] == "t1") & (frame["class_name"] == "white") & (name == "restoration")
        return frame.assign(dice=frame["dice"].mask(gone), empty=gone)

    write_results(plan, where, emptied)
    table, _ = make_verdict(plan, where)
    assert row(table, "restoration", "primary")["num_empty"] == 4
    assert row(table, "scratch", "primary")["num_empty"] == 0
    assert np.isfinite(row(table, "restoration", 1)["diff_mean"])


def test_the_verdict_is_a_function_of_its_inputs(tiny):
    plan, where = tiny
    write_results(plan, where)
    first = [make_verdict(plan, where) and digest(path) for path in (where.verdict, where.root / "verdict.json")]
    assert [make_verdict(plan, where) and digest(path) for path in (where.verdict, where.root / "verdict.json")] == first


def test_unequal_seeds_and_cases_are_refused(tiny):
    plan, where = tiny
    write_results(plan, where, lambda name, frame: frame[(frame["seed"] == 0) | (name == "scratch")])
    with pytest.raises(ValueError, match="same seeds"):
        make_verdict(plan, where)
    write_results(plan, where, lambda name, frame: frame[(frame["scan_id"] != "t2") | (name == "scratch")])
    with pytest.raises(ValueError, match="differ from the manifest"):
        make_verdict(plan, where)
    where.cases(plan.transfers[0].transfer).unlink()
    with pytest.raises(ValueError, match="vesalius finetune"):
        make_verdict(plan, where)


def test_pretraining_on_test_subjects_is_refused_or_stamped(tiny, replan):
    plan, where = tiny
    write_results(plan, where)
    path = where.run(plan.runs[0].run) / "run.json"
    path.write_text(json.dumps({**read_json(path), "clusters": ["ca0", "ct1"]}))
    with pytest.raises(ValueError, match="ct1"):
        make_verdict(plan, where)
    plan.study["pool"]["allow_test_subjects"] = True
    _, beside = make_verdict(plan, where)
    assert "saw test subjects" in beside["stamps"][0]
    path.write_text(json.dumps({**read_json(path), "clusters": ["ca0", "cv1"]}))
    with pytest.raises(ValueError, match="cv1"):
        make_verdict(plan, where)


def test_scratch_alone_has_a_table_without_comparisons(tiny):
    plan, where = tiny
    write_results(plan, where)
    alone = {"transfers": plan.transfers[:1], "comparisons": ()}
    table, beside = make_verdict(type(plan)(**{**vars(plan), **alone}), where)
    assert len(table) == 3
    assert (beside["sentences"], beside["family"]) == ([], 0)


def test_results_without_scratch_are_refused():
    with pytest.raises(ValueError, match="scratch"):
        TaskVerdict({}, 100, 0, 32)


def test_continued_recipes_count_all_their_steps(tiny):
    plan, _ = tiny
    plan.recipes["longer"] = {"training": {"steps": 5}, "from": "restoration"}
    assert [pretrain_steps(plan, name) for name in (None, "restoration", "longer")] == [0, 7, 12]


def test_the_verb_prints_the_table_and_a_sentence_each(tiny, capsys):
    plan, where = tiny
    write_results(plan, where)
    verb.run(where.root)
    printed = capsys.readouterr().out
    assert "won/tied/lost" in printed
    assert "NOT significant" in printed
    assert "2 labelled validation scans" in printed


def results_of(by_seed):
    """20 subjects with the same Dice, one a seed."""
    dice = {f"t{n:02d}": np.array(by_seed) for n in range(20)}
    return {4: SizeResults(4, False, tuple(range(len(by_seed))), dice, tuple(dice), 0, 10, 1e-3, {"grey": 0.5})}


@pytest.mark.parametrize(
    ("by_seed", "found", "words"),
    [
        ((0.60, 0.61), True, "): significant."),
        ((0.60, 0.48), False, "NOT significant, since it may lie in the seeds"),
        ((0.50, 0.50), False, "NOT significant."),
    ],
)
def test_only_what_holds_for_other_seeds_too_is_significant(by_seed, found, words):
    """The second row gains 0.04 in every subject, so the test is sure of it, but one of its two seeds loses."""
    verdict = TaskVerdict({"scratch": results_of((0.5, 0.5)), "own": results_of(by_seed)}, 1000, 0, 32)
    figures = verdict.primary("own")
    correct([figures])
    assert (figures["p_holm"] <= 0.05) == (by_seed != (0.5, 0.5))
    assert significant(figures) is found
    assert words in sentence("task", "own", figures, True, 1)
    assert significant(verdict.primary("scratch")) is None
