"""``vesalius pretrain`` by torchrun, by what srun sets, and by hand: one result, written once."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.lease import lease
from pipeline.plan import make_plan, plan_json, read_plan
from pipeline.training.pretraining import pretrain
from pipeline.verbs import index, preprocess, split

ROOT = Path(__file__).parents[2]
RECIPE = {
    "network": {"unet": {"widths": [4, 8]}},
    "crops": {"random": {"size_vox": [16, 16, 16]}},
    "views": {"altered": {"corrupt": {}}, "pair": {"augment": {}}},
    "objectives": {"restoration": {"view": "altered"}, "simclr": {"view": "pair"}},
    "training": {"steps": 4, "batch": 4, "micro_batch": 1, "checkpoint_every": 2, "evaluate_every": 4, "journal_every": 1, "timeout_s": 60},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(plan, folder) of six volumes that are ready to be trained on."""
    root = tmp_path_factory.mktemp("ranks")
    patch = pytest.MonkeyPatch()
    patch.setenv("VESALIUS_PRIVATE", str(root / "private"))
    patch.setenv("CUDA_VISIBLE_DEVICES", "")
    rng = np.random.default_rng(0)
    (root / "data" / "images").mkdir(parents=True)
    for number in range(6):
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (26, 24, 22)], indexing="ij"))
        radius = np.sqrt((((grid.T - rng.uniform(-0.2, 0.2, 3)) / rng.uniform(0.5, 0.9, 3)) ** 2).sum(-1)).T
        voxels = np.where(radius < 0.5, 700, 400) * (radius < 1.1) + rng.normal(0, 25, radius.shape)
        image = nibabel.Nifti1Image(voxels.astype(np.int16), np.diag([1.5, 1.5, 2.0, 1]))
        nibabel.save(image, root / "data" / "images" / f"person{number}.nii.gz")
    (root / "mix.yaml").write_text(yaml.safe_dump(RECIPE))
    value = {
        "data": str(root / "data"), "sources": [{"path": "{data}/images", "modality": "MR"}], "shards": 1,
        "split": {"test": 1, "validation": 1}, "recipes": ["mix.yaml"], "preprocess": {"crop_body": False},
        "identity": {"public_key": "test"},  # else another key, and so another split, each time
    }  # fmt: skip
    (root / "tiny.yaml").write_text(yaml.safe_dump(value))
    where = StudyFolder(root / "results")
    write_json(where.plan, plan_json(make_plan(root / "tiny.yaml")))
    index.run(where.root)
    preprocess.run(where.root, "00")
    split.run(where.root)
    plan, _ = read_plan(where.root)
    shutil.copytree(where.root, root / "alone")
    pretrain(plan, StudyFolder(root / "alone"), plan.runs[0])
    yield root, plan.runs[0].run
    patch.undo()


def folder_for(study, name):
    root, run = study
    shutil.copytree(root / "results", root / name)
    return root / name, root / name / "runs" / run


def call(*command, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen([sys.executable, "-m", *map(str, command)], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def by_srun(*command):
    """Two tasks with the variables that srun gives them."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = str(one.getsockname()[1])
    common = {"SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NNODES": "1", "MASTER_PORT": port}
    tasks = [call("pipeline", *command, **common, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in range(2)]
    errors = [task.communicate(timeout=200)[1] for task in tasks]
    return [task.returncode for task in tasks], errors


def check(study, run_folder):
    """The run's files against those of one process: the same but for the order in which float32 numbers were added."""
    root, run = study
    alone = root / "alone" / "runs" / run
    one, other = load_file(alone / "model.safetensors"), load_file(run_folder / "model.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (alone, run_folder)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-4, abs=1e-5)
    kinds = [json.loads(line)["kind"] for line in (run_folder / "journal.jsonl").read_text().splitlines()]
    assert kinds == ["start", *["train"] * 4, "evaluate", "end"]
    assert {path.name for path in alone.iterdir()} == {path.name for path in run_folder.iterdir()}


def test_torchrun_trains_what_one_process_trains(study):
    folder, run_folder = folder_for(study, "torchrun")
    started = call("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "pipeline", "pretrain", folder, study[1])
    errors = started.communicate(timeout=200)[1]
    assert started.returncode == 0, errors
    check(study, run_folder)


def test_tasks_of_srun_train_it_too_and_both_refuse_a_folder_that_somebody_writes(study):
    folder, run_folder = folder_for(study, "srun")
    with lease(run_folder):
        codes, errors = by_srun("pretrain", folder, study[1])
        assert codes == [1, 1]
        assert all("another process writes here" in error for error in errors), errors
    assert not (run_folder / "journal.jsonl").exists()
    codes, errors = by_srun("pretrain", folder, study[1])
    assert codes == [0, 0], "\n".join(errors)
    check(study, run_folder)


def wait_for(true, process):
    deadline = time.monotonic() + 120
    while not true():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def frozen(process):
    return [rank for rank in psutil.Process(process.pid).children() if rank.status() == psutil.STATUS_STOPPED]


def test_ranks_of_the_verb_that_are_told_to_stop_say_75_and_train_what_one_process_trains(study):
    folder, run_folder = folder_for(study, "verb")
    started = call("pipeline", "pretrain", folder, study[1], "--ranks", 2, VESALIUS_FAULTS="stop@step,step=2,rank=1")
    wait_for(lambda: frozen(started), started)
    started.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    frozen(started)[0].send_signal(signal.SIGCONT)
    errors = started.communicate(timeout=120)[1]
    assert started.returncode == 75, errors
    assert [path.name for path in (run_folder / "checkpoints").iterdir()]
    assert not (run_folder / "encoder.safetensors").exists()
    again = call("pipeline", "pretrain", folder, study[1], "--ranks", 2)
    errors = again.communicate(timeout=200)[1]
    assert again.returncode == 0, errors
    alone = load_file(study[0] / "alone" / "runs" / study[1] / "model.safetensors")
    for name, value in load_file(run_folder / "model.safetensors").items():
        torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-5)


def test_a_signal_while_pytorch_is_imported_means_resume_me_and_loses_nothing(study):
    folder, run_folder = folder_for(study, "early")
    started = call("pipeline", "pretrain", folder, study[1])
    wait_for(lambda: catches(started, signal.SIGUSR2), started)
    started.send_signal(signal.SIGUSR2)
    errors = started.communicate(timeout=120)[1]
    assert started.returncode == 75, errors
    assert (run_folder / "checkpoints" / "step_00000001").is_dir()
    again = call("pipeline", "pretrain", folder, study[1])
    errors = again.communicate(timeout=120)[1]
    assert again.returncode == 0, errors
    alone, resumed = (path / "model.safetensors" for path in (study[0] / "alone" / "runs" / study[1], run_folder))
    assert alone.read_bytes() == resumed.read_bytes()


def catches(process, number):
    """Whether a process has a handler for a signal."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return bool(int(next(line.split()[1] for line in lines if line.startswith("SigCgt:")), 16) >> (number - 1) & 1)
