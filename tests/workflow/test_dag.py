"""The DAG: what runs, in which order, and what wakes what. The rules are real, the verbs are stand-ins."""

import fcntl
import json
import os

TRAINING = {"pretrain r-s0-aa --ranks 1", "pretrain w-s0-bb --ranks 1", "pretrain c-s0-c1 --ranks 1"}


def test_everything_runs_once_and_after_what_it_needs(once):
    _, calls = once
    place = {call: number for number, call in enumerate(calls)}
    assert len(calls) == len(place) == 18
    for first, second in (
        ("sample", "index"),
        ("index", "preprocess 00 --memory-mb 6000"),
        ("preprocess 01 --memory-mb 6000", "split"),
        ("split", "pretrain r-s0-aa --ranks 1"),
        ("pretrain r-s0-aa --ranks 1", "embed r-s0-aa"),
        ("embed r-s0-aa", "discover r-s0-words"),
        ("discover r-s0-words", "pretrain w-s0-bb --ranks 1"),
        ("pretrain r-s0-aa --ranks 1", "pretrain c-s0-c1 --ranks 1"),
        ("pretrain w-s0-bb --ranks 1", "finetune organ-w-x"),
        ("finetune organ-scratch-x", "verdict"),
        ("verdict", "report"),
        ("report", "mirror"),
    ):
        assert place[first] < place[second]


def test_a_second_call_does_nothing(finished):
    code, output, calls = finished.snakemake()
    assert (code, calls) == (0, [])
    assert "Nothing to be done" in output


def test_a_touched_file_that_changed_nothing_wakes_index_and_split_only(finished):
    os.utime(finished.root / "scans" / "00-one")
    code, output, calls = finished.snakemake()
    assert code == 0, output
    assert calls == ["index", "split"]


def test_a_new_scan_wakes_its_shard_and_what_reads_the_manifest(finished):
    (finished.root / "scans" / "01-three").write_text("new")
    code, output, calls = finished.snakemake()
    assert code == 0, output
    assert calls[:3] == ["index", "preprocess 01 --memory-mb 6000", "split"]
    assert set(calls) >= TRAINING


def test_one_more_size_wakes_every_transfer_and_no_pretraining(finished):
    finished.plan(sizes=(2, 8))
    code, output, calls = finished.snakemake()
    assert code == 0, output
    assert sorted(call for call in calls if call.startswith("finetune")) == [
        f"finetune organ-{n}" for n in ("c-c1", "r-x", "scratch-x", "w-x")
    ]
    assert [call for call in calls if not call.startswith("finetune")] == ["verdict", "report", "mirror"]


def test_an_edited_recipe_wakes_its_own_runs_only(finished):
    before = (finished.folder / "runs" / "r-s0-aa" / "encoder.safetensors").stat().st_mtime_ns
    finished.plan(hash_of_c="c2")
    code, output, calls = finished.snakemake()
    assert code == 0, output
    assert calls == ["pretrain c-s0-c2 --ranks 1", "finetune organ-c-c2", "verdict", "report", "mirror"]
    assert (finished.folder / "runs" / "r-s0-aa" / "encoder.safetensors").stat().st_mtime_ns == before


def test_another_version_wakes_every_stage(finished):
    plan = json.loads((finished.folder / "plan.json").read_text())
    (finished.folder / "plan.json").write_text(json.dumps({**plan, "version": "2"}))
    code, output, _ = finished.snakemake("--dry-run")
    assert code == 0
    assert "params have changed" in output.lower()


def test_another_format_of_the_store_wakes_preprocess_and_what_follows_only_if_volumes_changed(finished):
    finished.plan(store_format=2)
    code, output, calls = finished.snakemake()
    assert code == 0, output
    assert output.count("Params have changed since last execution") == 2, "of both shards, and of nothing else"
    assert sorted(calls) == ["preprocess 00 --memory-mb 6000", "preprocess 01 --memory-mb 6000", "split"]
    assert finished.snakemake()[2] == []


def test_a_dry_run_from_nothing_shows_every_stage(fresh):
    code, output, calls = fresh.snakemake("--dry-run")
    assert (code, calls) == (0, [])
    for stage in ("sample", "index", "preprocess", "split", "pretrain", "embed", "discover", "lexicon", "finetune", "verdict", "report"):
        assert f"\n{stage} " in output


def test_a_second_snakemake_on_the_same_study_is_refused(finished):
    os.utime(finished.root / "scans" / "00-one")
    with open(finished.folder / ".lease", "a") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        code, output, calls = finished.snakemake("--nolock")
    assert (code, calls) == (1, [])
    assert "another snakemake works on this study" in output


def test_a_wrong_config_key_is_refused(fresh):
    code, output, _ = fresh.snakemake("--dry-run", config=["dta=scans"])
    assert code == 1
    assert "--config dta: is no key" in output


def test_a_machine_with_a_gpu_trains_one_at_a_time(fresh):
    code, output, _ = fresh.snakemake("--dry-run", config=["gpus=4"])
    assert code == 0
    assert "gpu=1" in output
    code, output, calls = fresh.snakemake("--until", "pretrain", config=["gpus=4"])
    assert code == 0, output
    assert 'Provided resources: gpu=Resource("gpu", 1)' in output
    assert set(calls) >= {"pretrain r-s0-aa --ranks 1"}


def test_gpus_of_one_training_are_asked_for_together_and_wake_no_run_that_is_finished(finished):
    finished.plan(gpus_per_run=2)
    code, output, calls = finished.snakemake()
    assert (code, calls) == (0, []), output
    finished.plan(gpus_per_run=2, hash_of_c="c2")
    code, output, calls = finished.snakemake(config=["gpus=4"])
    assert (code, calls[0]) == (0, "pretrain c-s0-c2 --ranks 2"), output
    assert 'Provided resources: gpu=Resource("gpu", 2)' in output


def test_a_cluster_is_asked_for_the_gpus_of_a_training_whatever_this_machine_has(fresh):
    fresh.plan(gpus_per_run=4)
    code, output, _ = fresh.snakemake("--dry-run", "--jobs", "8", config=["gpus=1"])
    assert code == 0, output
    assert "gpu=4" in output
    assert "mem_mb=32000" in output


def test_more_gpus_for_a_training_than_the_machine_has_are_refused(fresh):
    fresh.plan(gpus_per_run=4)
    code, output, _ = fresh.snakemake("--dry-run", config=["gpus=2"])
    assert code == 1
    assert "gpus_per_run: is 4, but this machine has 2 GPUs" in output


def test_lint_finds_nothing(fresh):
    code, output, _ = fresh.snakemake("--lint")
    assert code == 0, output
