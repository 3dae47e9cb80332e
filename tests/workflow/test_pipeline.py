"""The whole DAG on eight tiny volumes: from scans to a verdict, a report and a dashboard; then again, and after a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.files import digest
from pipeline.verbs import plan as plan_verb

ROOT = Path(__file__).parents[2]
CANARY = "Mallory-Canary"
RECIPE = {
    "network": {"unet": {"widths": [4, 8], "skips": False}},
    "crops": {"random": {"size_vox": [16, 16, 16]}},
    "views": {"altered": {"corrupt": {}}},
    "objectives": {"restoration": {"view": "altered"}},
    "training": {"steps": 6, "batch": 2, "checkpoint_every": 2, "evaluate_every": 3, "journal_every": 1},
}
TRANSVW = {
    **RECIPE,
    "crops": {"words": {"size_vox": [16, 16, 16]}},
    "objectives": {"restoration": {"view": "altered"}, "visual_words": {"view": "altered", "weight": 0.1}},
    "words": {"encoder": "restoration", "num_words": 3, "sizes_vox": [[12, 12, 12]], "neighbours": 1.0},
}
TASK = {"labels": "{data}/labels", "kind": {"segmentation": {"classes": {1: "core", 2: "shell"}}}}
STUDY = {
    "sources": [{"path": "{data}/images", "modality": "MR", "origin": "made by the test", "licence": "none needed"}],
    "identity": {"public_key": "test"}, "shards": 2, "split": {"test": 2, "validation": 2}, "preprocess": {"crop_body": False},
    "recipes": ["restoration.yaml", "transvw.yaml"], "tasks": ["blobs.yaml"],
    "initialisations": {"scratch": {}, "restoration": {"recipe": "restoration"}, "transvw": {"recipe": "transvw"}},
    "finetune": {"num_labels": [1, 2], "seeds": [0, 1], "steps": 3, "size_vox": [16, 16, 16]}, "verdict": {"draws": 200},
}  # fmt: skip


def write_subject(data: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (26, 24, 22)], indexing="ij"))
    radius = np.sqrt((((grid.T - rng.uniform(-0.15, 0.15, 3)) / rng.uniform(0.6, 0.8, 3)) ** 2).sum(-1)).T
    labels = np.where(radius < 0.5, 1, np.where(radius < 0.8, 2, 0)).astype(np.uint8)
    voxels = np.array([40, 700, 400])[labels] + 200 * (radius < 1.1) + rng.normal(0, 25, radius.shape)
    affine = np.diag([1.5, 1.5, 2.0, 1])
    for folder, array in (("images", voxels.astype(np.int16)), ("labels", labels)):
        image = nib.Nifti1Image(array, affine)
        image.header["descrip"] = CANARY
        (data / folder).mkdir(parents=True, exist_ok=True)
        nib.save(image, data / folder / f"{CANARY}{number:02d}.nii.gz")


def run(folder: Path, *extra: str, check: bool = True) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "run",
        str(folder / "tiny.yaml"),
        "--data",
        str(folder / "scans"),
        "--results",
        str(folder / "results"),
    ]
    environment = {**os.environ, "VESALIUS_PRIVATE": str(folder / "private"), "OMP_NUM_THREADS": "1"}
    found = subprocess.run([*command, "--cores", "2", *extra], cwd=ROOT, env=environment, capture_output=True, text=True)
    if check:
        assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-6000:]
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for number in range(8):
        write_subject(folder / "scans", number)
    (folder / "scans" / "images" / "notes.txt").write_text(CANARY)
    (folder / "scans" / "images" / f"{CANARY}-broken.nii.gz").write_bytes(b"\x1f\x8b\x08" + bytes(40))
    for name, value in {"restoration": RECIPE, "transvw": TRANSVW, "blobs": TASK, "tiny": STUDY}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(value))
    found = run(folder)
    (folder / "said.txt").write_text(found.stdout + found.stderr)
    return folder


def digests(folder: Path) -> dict[str, str]:
    results = folder / "results" / "tiny"
    return {str(p.relative_to(results)): digest(p) for p in sorted([results / "verdict.tsv", *results.glob("runs/*/encoder.safetensors")])}


def test_everything_that_was_promised_is_there(study):
    results = study / "results" / "tiny"
    for name in (
        "plan.json",
        "inventory.tsv",
        "quarantine.tsv",
        "manifest.parquet",
        "lexicon.parquet",
        "verdict.tsv",
        "report.html",
        "mlflow.db",
    ):
        assert (results / name).stat().st_size > 0, name
    assert len(list(results.glob("runs/*/encoder.safetensors"))) == 2
    manifest = pd.read_parquet(results / "manifest.parquet")
    assert manifest["split"].value_counts().to_dict() == {"train": 4, "validation": 2, "test": 2}
    inventory = pd.read_csv(results / "inventory.tsv", sep="\t")
    assert inventory["status"].value_counts().to_dict() == {"volume": 8, "companion": 8, "not_image": 1, "quarantined": 1}


def test_a_run_says_a_line_where_a_job_begins_and_ends_and_what_came_of_it(study):
    said = (study / "said.txt").read_text()
    begun = re.findall(r"^run: (\w+).* begins$", said, re.MULTILINE)
    done = re.findall(r"^run: (\w+).* is done, \d+ s; \d+ of \d+ jobs$", said, re.MULTILINE)
    once = ["sample", "index", "split", "embed", "discover", "lexicon", "verdict", "report", "mirror"]
    assert sorted(begun) == sorted(done) == sorted([*once, *["preprocess"] * 2, *["pretrain"] * 2, *["finetune"] * 3])
    assert re.search(r"^run: everything is done; (\d+) of \1 jobs$", said, re.MULTILINE)
    (log,) = re.findall(r"^Complete log\(s\): (\S+)$", said, re.MULTILINE)
    assert "reason: Missing output files" in Path(log).read_text()
    assert not [words for words in ("reason:", "jobid", "Select jobs", "Building DAG") if words in said]
    for words in ("Stages", "Verdict: test Dice", "report:     ", "dashboard:  MLFLOW_SERVER"):
        assert words in said


def test_the_verdict_has_its_columns_and_says_what_it_compares(study):
    table = pd.read_csv(study / "results" / "tiny" / "verdict.tsv", sep="\t", dtype={"num_labels": str})
    assert list(table.columns) == [
        "task",
        "initialisation",
        "num_labels",
        "num_seeds",
        "num_cases",
        "dice_mean",
        "diff_mean",
        "ci_low",
        "ci_high",
        "p_raw",
        "p_holm",
        "wins",
        "ties",
        "losses",
        "num_empty",
        "pretrain_steps",
        "finetune_steps",
        "planned",
        "saw_test_subjects",
        "significant",
    ]
    assert set(table["initialisation"]) == {"scratch", "restoration", "transvw"}
    assert (table["num_cases"] == 2).all()
    assert table["dice_mean"].between(0, 1).all()
    planned = table[table["planned"]]
    assert planned["p_holm"].notna().all()


def test_words_are_places_in_training_and_validation_subjects_only(study):
    results = study / "results" / "tiny"
    words = pd.read_parquet(results / "lexicon.parquet")
    manifest = pd.read_parquet(results / "manifest.parquet").set_index("scan_id")
    assert {"word_id", "scan_id", "x_mm", "y_mm", "z_mm", "size_mm", "confidence", "split"} <= set(words.columns)
    assert set(words["split"]) <= {"train", "validation"}
    assert set(manifest.loc[words["scan_id"], "split"]) == set(words["split"])
    assert words["confidence"].between(0, 1).all()


def test_a_second_call_does_nothing(study):
    before = digests(study)
    found = run(study)
    assert "Nothing to be done" in found.stdout + found.stderr
    assert digests(study) == before


def test_no_word_of_the_user_arrives_anywhere(study):
    needle = CANARY.encode()
    hits = [path for path in (study / "results").rglob("*") if path.is_file() and needle in path.read_bytes()]
    assert hits == []
    assert needle in b"".join(path.read_bytes() for path in (study / "private").rglob("*") if path.is_file()), "the crosswalk leads back"


def test_the_report_needs_nothing_from_elsewhere(study):
    page = (study / "results" / "tiny" / "report.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)
    assert "<script" not in page
    for part in ('id="verdict"', 'id="data"', 'id="refused"', 'id="pretraining"', 'id="words"', 'id="cost"', 'id="encoder"', "<svg"):
        assert part in page, part


def test_editing_one_recipe_reruns_that_recipe_and_what_depends_on_it_only(study):
    before = {path: path.stat().st_mtime_ns for path in (study / "results" / "tiny").glob("runs/*/encoder.safetensors")}
    changed = {**TRANSVW, "training": {**RECIPE["training"], "learning_rate": 2e-3}}
    (study / "transvw.yaml").write_text(yaml.safe_dump(changed))
    dry = run(study, "--", "--dry-run").stdout
    counts = {line.split()[0]: int(line.split()[1]) for line in dry.splitlines() if re.fullmatch(r"[a-z]+ +\d+", line.strip())}
    (study / "transvw.yaml").write_text(yaml.safe_dump(TRANSVW))
    assert counts["pretrain"] == 1
    assert counts["finetune"] == 1
    assert not {"index", "preprocess", "split", "embed"} & set(counts)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_store_of_another_format_wakes_preprocess(study):
    path = study / "results" / "tiny" / "plan.json"
    plan_verb.run(study / "tiny.yaml", data=str(study / "scans"), results=study / "results", refresh=True)
    plan = json.loads(path.read_text())
    path.write_text(json.dumps({**plan, "store_format": plan["store_format"] - 1}, indent=2, sort_keys=True) + "\n")
    try:
        dry = run(study, "--", "--dry-run").stdout
    finally:
        path.write_text(json.dumps(plan, indent=2, sort_keys=True) + "\n")
    counts = dict(re.findall(r"^([a-z]+) +(\d+)$", dry, re.MULTILINE))
    assert (counts["preprocess"], counts["split"]) == ("2", "1")
    assert "Params have changed since last execution" in dry


def test_a_new_scan_touches_one_shard_and_what_depends_on_it(study):
    before = digests(study)
    write_subject(study / "scans", 50)
    try:
        dry = run(study, "--", "--dry-run").stdout
        assert re.search(r"^index +1", dry, re.MULTILINE)
    finally:
        for name in ("images", "labels"):
            (study / "scans" / name / f"{CANARY}50.nii.gz").unlink()
    again = run(study)
    assert digests(study) == before
    said = again.stdout + again.stderr
    assert not re.search(r"^run: (preprocess|pretrain|finetune) .*begins", said, re.MULTILINE), "the scan that went again changed nothing"


def test_killed_in_the_middle_it_ends_with_the_same_digests(study):
    expected = digests(study)
    results = study / "results" / "tiny"
    for made in ("runs", "transfers", "lexicons", "embeddings"):
        shutil.rmtree(results / made)
    (results / "verdict.tsv").unlink()
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "run",
        str(study / "tiny.yaml"),
        "--data",
        str(study / "scans"),
        "--results",
        str(study / "results"),
    ]
    environment = {**os.environ, "VESALIUS_PRIVATE": str(study / "private"), "OMP_NUM_THREADS": "1"}
    for seconds in (4.0, 7.0):
        job = subprocess.Popen(
            [*command, "--cores", "2"],
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    run(study)
    assert digests(study) == expected
    assert json.loads((results / "mirror.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"splitt": 1}, "splitt"),
        ({"split": {"test": 7, "validation": 2}}, "run: split FAILED after"),
        ({"sources": [{"path": "{data}/nowhere"}]}, "nowhere"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_clear_message(study, tmp_path, change, words):
    for name in ("restoration", "transvw", "blobs"):
        (tmp_path / f"{name}.yaml").write_text((study / f"{name}.yaml").read_text())
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**STUDY, **change}))
    (tmp_path / "scans").symlink_to(study / "scans")
    found = run(tmp_path, check=False)
    assert found.returncode != 0
    assert words in found.stdout + found.stderr
    assert "Traceback" not in found.stderr
