"""A plan names every run by what it is made of, and refuses what cannot be run."""

import pytest
import yaml

from pipeline.files import write_json
from pipeline.plan import make_plan, plan_json, read_plan, shard_of

RECIPE = {
    "network": {"unet": {"widths": [4, 8]}},
    "crops": {"random": {"size_vox": [16, 16, 16]}},
    "views": {"altered": {"corrupt": {}}},
    "objectives": {"restoration": {"view": "altered"}},
}
WORDS = {
    **RECIPE,
    "crops": {"words": {"size_vox": [16, 16, 16]}},
    "objectives": {"restoration": {"view": "altered"}, "visual_words": {"view": "altered", "weight": 0.1}},
    "words": {"encoder": "restoration", "num_words": 4, "sizes_vox": [[16, 16, 16]]},
}
TASK = {"labels": "{data}/labels", "kind": {"segmentation": {"classes": {1: "grey"}}}}
STUDY = {
    "data": "scans", "sources": [{"path": "{data}/images"}], "split": {"test": 2, "validation": 1}, "pretrain_seeds": [0, 1],
    "recipes": ["restoration.yaml", "transvw.yaml"], "tasks": ["tissue.yaml"],
    "initialisations": {"scratch": {}, "restoration": {"recipe": "restoration"}, "transvw": {"recipe": "transvw"}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, value in {"restoration": RECIPE, "transvw": WORDS, "tissue": TASK, "tiny": STUDY}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(value))
    return tmp_path


def edit(folder, name, **changes):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def names(plan):
    return {run.recipe + str(run.seed): run.run for run in plan.runs}


def test_transvw_with_seed_i_builds_on_restoration_with_seed_i(folder):
    plan = make_plan(folder / "tiny.yaml")
    runs = {(run.recipe, run.seed): run for run in plan.runs}
    for seed in (0, 1):
        assert runs["transvw", seed].needs == (runs["restoration", seed].run,)
        assert plan.lexicon(runs["transvw", seed].lexicon).run == runs["restoration", seed].run
    assert [item["initialisation"] for item in plan.comparisons] == ["restoration", "transvw"]


def test_editing_one_recipe_renames_its_runs_and_what_builds_on_them_only(folder):
    before = make_plan(folder / "tiny.yaml")
    edit(folder, "transvw", training={"steps": 5})
    after = make_plan(folder / "tiny.yaml")
    assert names(before)["restoration0"] == names(after)["restoration0"]
    assert names(before)["transvw0"] != names(after)["transvw0"]
    assert [item.lexicon for item in before.lexicons] == [item.lexicon for item in after.lexicons]
    changed = {a.initialisation for a, b in zip(before.transfers, after.transfers, strict=True) if a.transfer != b.transfer}
    assert changed == {"transvw"}
    edit(folder, "restoration", training={"steps": 5})
    last = make_plan(folder / "tiny.yaml")
    assert not set(names(last).values()) & set(names(after).values())


def test_one_more_seed_or_size_keeps_the_cells_that_are_done_and_another_rate_does_not(folder):
    before = make_plan(folder / "tiny.yaml")
    edit(folder, "tiny", finetune={"seeds": [0, 1, 2, 3], "num_labels": [1, 2, 4, "all"]})
    assert make_plan(folder / "tiny.yaml").transfers == before.transfers
    edit(folder, "tiny", finetune={"channels_last": False})
    assert make_plan(folder / "tiny.yaml").transfers == before.transfers
    for changed in ({"learning_rate": 0.01}, {"channels_last": True}):
        edit(folder, "tiny", finetune=changed)
        assert not {t.transfer for t in make_plan(folder / "tiny.yaml").transfers} & {t.transfer for t in before.transfers}


def test_a_changed_description_changes_no_run(folder):
    before = make_plan(folder / "tiny.yaml")
    edit(folder, "restoration", description="better words")
    assert names(make_plan(folder / "tiny.yaml")) == names(before)


def test_a_plan_from_before_formats_were_told_is_read(folder):
    value = plan_json(make_plan(folder / "tiny.yaml"))
    del value["store_format"]
    write_json(folder / "out" / "plan.json", value)
    assert read_plan(folder / "out")[0].store_format == 0


def test_the_plan_comes_back_from_its_file(folder):
    plan = make_plan(folder / "tiny.yaml", data="elsewhere")
    write_json(folder / "out" / "plan.json", plan_json(plan))
    again, where = read_plan(folder / "out")
    assert plan_json(again) == plan_json(plan)
    assert again.study["sources"][0]["path"] == "elsewhere/images"
    assert again.task_value("tissue").labels == "elsewhere/labels"
    assert again.recipe_value("transvw").words.num_words == 4
    assert where.encoder("x").parts[-2:] == ("x", "encoder.safetensors")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("tiny", {"splitt": {}}, r"tiny\.yaml: splitt: is not a key here; did you mean 'split'"),
        ("tiny", {"colour": 1}, r"tiny\.yaml: colour: is not a key here; there are channels, .*tracking"),
        ("tiny", {"finetune": {"stepz": 4}}, r"tiny\.yaml: finetune\.stepz: is not a key here; did you mean 'steps"),
        (
            "tiny",
            {"sources": [{"path": "x", "modality": "MRI"}]},
            r"^[^\n]*0\.modality: Input .* not 'MRI'$",
        ),
        ("restoration", {"views": {"altered": {"corrupt": {"shufle": 1}}}}, r"views\.altered\.corrupt\.shufle: .*mean 'shuffle'"),
        ("restoration", {"network": {"unnet": {}}}, r"network: there is no 'unnet' in networks; did you mean 'unet'"),
        ("tiny", {"split": {"test": 0, "validation": 1}}, r"split\.test"),
        ("tiny", {"recipes": ["absent.yaml"]}, r"no file 'absent\.yaml'"),
        ("tiny", {"initialisations": {"moco": {"recipe": "moco"}}}, r"initialisations\.moco\.recipe"),
        ("tiny", {"shards": 3}, "power of two"),
        ("restoration", {"objectives": {"restorationn": {"view": "altered"}}}, "there is no 'restorationn'"),
        ("restoration", {"objectives": {"restoration": {"view": "clean"}}}, "no view is called 'clean'"),
        ("restoration", {"network": {"unet": {"width": [4]}}}, "network.*width"),
        ("restoration", {"from": "restoration"}, "builds on itself"),
        ("transvw", {"words": None}, "words: is missing"),
        ("transvw", {"words": {"encoder": "absent", "sizes_vox": [[8, 8, 8]]}}, "names the recipe 'absent'"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_key(folder, name, changes, words):
    edit(folder, name, **changes)
    with pytest.raises(ValueError, match=words):
        make_plan(folder / "tiny.yaml")


def test_a_file_of_another_kind_is_told_as_that(folder):
    with pytest.raises(ValueError, match=r"restoration\.yaml: is no study: .*objectives.* are no keys of a study, which has name, "):
        make_plan(folder / "restoration.yaml")


def test_a_study_without_tasks_may_hold_nobody_back_for_a_test(folder):
    edit(folder, "tiny", tasks=[], initialisations={}, split={"test": 0, "validation": 1})
    assert make_plan(folder / "tiny.yaml").study["split"]["test"] == 0


def test_yaml_aliases_and_tags_are_refused(folder):
    (folder / "tiny.yaml").write_text("a: &x [1]\nb: *x\n")
    with pytest.raises(ValueError, match="anchors or aliases"):
        make_plan(folder / "tiny.yaml")
    (folder / "tiny.yaml").write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ValueError, match="no valid YAML"):
        make_plan(folder / "tiny.yaml")


def test_a_missing_study_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.yaml: there is no such file"):
        make_plan(tmp_path / "absent.yaml")


def test_shards_do_not_move_when_a_scan_is_added():
    shards = ("00", "01", "02", "03")
    assert {shard_of(f"scan{number}", shards) for number in range(50)} == set(shards)
    assert shard_of("scan1", shards) == shard_of("scan1", shards)


def test_a_control_comes_after_the_search_that_tunes_it(folder):
    edit(folder, "tiny", initialisations={"scratch": {}, "longer": {"steps_factor": 4, "tuned_as": "scratch", "planned": False}})
    found = {item.initialisation: item for item in make_plan(folder / "tiny.yaml").transfers}
    assert found["scratch"].after is None
    assert found["longer"].after == found["scratch"].transfer
    edit(folder, "tiny", initialisations={"scratch": {}, "longer": {"tuned_as": "longer"}})
    with pytest.raises(ValueError, match=r"longer\.tuned_as"):
        make_plan(folder / "tiny.yaml")


def test_settings_that_change_no_weight_rename_no_run_and_later_ones_only_where_they_are_used(folder):
    names = {run.run for run in make_plan(folder / "tiny.yaml").runs}
    for same in ({"patience_s": 5.0}, {"timeout_s": 300.0}, {"max_unread": 0.5}, {"spikes": "note"}):
        edit(folder, "restoration", training=same)
        assert {run.run for run in make_plan(folder / "tiny.yaml").runs} == names
    for other in ({"spikes": "skip"}, {"steps": 7}):
        edit(folder, "restoration", training=other)
        assert not {run.run for run in make_plan(folder / "tiny.yaml").runs} & names


def test_a_batch_that_the_gpus_of_a_run_cannot_share_is_refused_by_file_and_key(folder):
    edit(folder, "transvw", training={"batch": 8, "micro_batch": 4})
    edit(folder, "restoration", training={"batch": 8})
    for gpus in (1, 2):
        edit(folder, "tiny", gpus_per_run=gpus)
        make_plan(folder / "tiny.yaml")
    edit(folder, "tiny", gpus_per_run=4)
    with pytest.raises(
        ValueError, match=r"tiny\.yaml: gpus_per_run: is 4, but of the recipe transvw, training\.micro_batch: 4 does not divide"
    ):
        make_plan(folder / "tiny.yaml")
    edit(folder, "tiny", gpus_per_run=3)
    with pytest.raises(ValueError, match=r"gpus_per_run: is 3, .* training\.batch: 8 crops a step .* 3 ranks; choose a multiple of 3"):
        make_plan(folder / "tiny.yaml")


def test_what_hangs_is_named_by_who_knows_it_best_before_collectives_end():
    from pipeline.recipe import Training

    for training in (Training(), Training(patience_s=3.0)):
        assert training.patience_s < training.hang_s(1) == training.hang_s(8) < training.wait_s
    shorter = Training(timeout_s=100.0)
    assert shorter.hang_s(1) > shorter.wait_s == 100.0 > shorter.hang_s(2)
