"""Two gloo processes train what one trains: every objective, mixes, weights in parts, checkpoints, signals.

One pair of processes does all of it (``ranks_of_learners.py``); the tests read what it found.
"""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
made = runpy.run_path(str(HERE / "ranks_of_learners.py"))


def start(script, *arguments, world=2, **variables):
    """Processes as torchrun would start them, and their exit codes and messages."""
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch is built without torch.distributed")
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = one.getsockname()[1]
    base = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1]), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), **variables},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=200)[1] for process in started]
    return [process.returncode for process in started], errors


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    codes, errors = start(HERE / "ranks_of_learners.py", folder)
    assert codes == [0, 0], "\n".join(errors)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)], folder


CASES = ["+".join(case) for case in made["cases"]()]


@pytest.mark.parametrize("micro", [4, 2])
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_with_half_a_batch_each_do_what_one_does_with_the_whole(found, case, micro):
    name, difference = found[0][0][f"{case} in micro-batches of {micro}"]
    assert difference < 1e-9, f"{name} differs by {difference}"


@pytest.mark.parametrize("loop", ["loop", "sharded loop", "resumed whole", "resumed in parts"])
def test_a_run_ends_with_the_weights_of_one_process_whatever_its_layout_and_a_checkpoint_moves_between_layouts(found, loop):
    name, difference = found[0][0][loop]
    assert difference < 1e-9, f"{name} differs by {difference}"


@pytest.mark.parametrize("run", ["resumed whole", "resumed in parts"])
def test_a_signal_to_one_rank_stops_all_with_one_checkpoint(found, run):
    assert [rank[f"{run}: stopped"] for rank in found[0]] == [[75, "step_00000002"]] * 2


def test_only_rank_0_writes_the_journal(found):
    lines = [json.loads(line) for line in (found[1] / "plain" / "journal.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "train", "train", "train", "train", "evaluate", "end"]
    assert "restoration/cosine_simclr" in lines[1]["metrics"]


def test_what_rank_0_does_alone_all_learn_of_its_error_too(found):
    assert [rank["told"]["from"] for rank in found[0]] == ["0", "0"]
    assert all(rank["told"]["refused"].endswith("rank 0 found nothing") for rank in found[0])
