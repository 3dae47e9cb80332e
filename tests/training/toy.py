"""A run whose step takes a few milliseconds, with all that a checkpoint must hold: queue, teacher, an epoch's state, dropout.

The loop, loader, checkpoints, rules and ranks are the real ones; network and objective are small and put the ranks' gradients together
themselves. Every trial is a fork, so that a kill costs no import of PyTorch.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch._dynamo  # what the first optimiser imports: once here, and not once in every fork
import torch.distributed.nn
from torch import nn
from torch.nn import functional as F

from pipeline.crops._crop import Crop, Order
from pipeline.files import digest, digest_of
from pipeline.keys import initialise, key
from pipeline.recipe import Training
from pipeline.step import Loss
from pipeline.training.checkpoints.checkpoint import optimiser_tensors  # noqa: F401
from pipeline.training.checkpoints.made import code_digest
from pipeline.training.checkpoints.weights import read_tensors
from pipeline.training.distributed.ranks import Ranks, joined  # noqa: F401
from pipeline.training.injection import Faults
from pipeline.training.loading.loader import Loader
from pipeline.training.loop import Loop
from pipeline.volumes.store import Store

SIZE = (4, 4, 4)
TRAINING = {
    "steps": 24, "batch": 4, "checkpoint_every": 5, "journal_every": 1, "evaluate_every": 8, "learning_rate": 1e-2, "patience_s": 60.0,
    "timeout_s": 60.0,
}  # fmt: skip
WHO = {"run": "toy", "recipe_digest": "r", "manifest_digest": "m", "seed": 3}


class Toy(nn.Module):
    """Encodes crops, contrasts them with a slow teacher's queue; once an epoch it draws new anchors."""

    def __init__(self, ranks, seed=3, batch_norm=True):
        super().__init__()
        self.ranks, self.seed, self.weights = ranks, seed, {"toy": 1.0}
        batch_norm = batch_norm and ranks.world == 1  # PyTorch synchronises batch norm between GPUs only
        norm = nn.BatchNorm1d(8) if batch_norm else nn.LayerNorm(8)
        self.network = nn.Sequential(nn.Linear(64, 8), norm, nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4))
        self.teacher = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(8, 4))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("anchors", torch.zeros(2, 4))
        self.register_buffer("epochs", torch.zeros(64, dtype=torch.int64))
        initialise(self, key(seed, "toy"))

    def losses(self, region, **when):
        x = (region.voxels.flatten(1).float() - 500) / 500
        found = self.network(x)
        loss = F.mse_loss(found, self.teacher(x)) + 0.1 * (found @ self.queue.T).square().mean() + 0.1 * (found @ self.anchors.T).mean()
        return {"toy": Loss(loss, metrics={"size": found.detach().norm()})}, x

    def backward(self, micro, **when):
        losses, x = self.losses(*micro, **when)
        losses["toy"].value.backward()
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = self.ranks.mean(parameter.grad)
        return losses, x

    @torch.no_grad()
    def update(self, x):
        fresh = x.new_zeros(self.ranks.world, len(x), 4)
        fresh[self.ranks.rank] = self.teacher(x)
        place = (self.position + torch.arange(self.ranks.world * len(x), device=x.device)) % 8
        self.queue[place] = self.ranks.total(fresh).flatten(0, 1)
        self.position.add_(len(place))
        for slow, own in zip((self.teacher[0], self.teacher[2]), (self.network[0], self.network[4]), strict=True):
            slow.weight.lerp_(own.weight, 0.05)

    @torch.no_grad()
    def epoch(self, epoch):
        torch.manual_seed(key(self.seed, "epoch", epoch))
        self.epochs[epoch] += 1
        chosen = torch.rand(8, device=self.queue.device).argsort()[:2]
        self.anchors.copy_(self.queue[chosen] + torch.randn(2, 4, device=self.queue.device))


class Places:
    """Crops at the corner of every scan in turn."""

    def __init__(self, count, seed):
        self.order = Order(count, seed)

    def draw(self, sample):
        return Crop(self.order(sample), tuple(2 + key("toy", sample, axis) % 4 for axis in range(3)), SIZE)


def make_store(root, count=10):
    """(store, rows) of small volumes."""
    code_digest()  # once here, and not once in every fork
    store, rows = Store(Path(root) / "store"), []
    for number in range(count):
        rng, scan = np.random.default_rng(number), f"{'abcdefghij'[number]}{number:015d}"
        voxels = rng.integers(0, 1000, (1, 8, 8, 8)).astype(np.int16)
        meta = {
            "spacing_mm": [1] * 3,
            "affine": np.eye(4).ravel().tolist(),
            "window_low": [0],
            "window_high": [1000],
            "slope": 1,
            "inter": 0,
        }
        store.write(scan, voxels, voxels[0] > 500, meta)
        rows.append({"scan_id": scan, "cluster_id": scan, "shape": [8] * 3, "affine": np.eye(4).ravel().tolist(), "window_low": [0.0],
                     "window_high": [1000.0], "body_low_mm": [0.0] * 3, "body_high_mm": [7.0] * 3})  # fmt: skip
    return store, pd.DataFrame(rows)


def make_loop(stored, folder, ranks, faults=(), watchers=(), batch_norm=True, **changes):
    training, (store, rows) = Training(**{**TRAINING, **changes}), stored
    torch.set_num_threads(1)
    own = training.batch // ranks.world
    share = range(ranks.rank * own, (ranks.rank + 1) * own)
    store = Store(store.root)  # forked children open and prove files themselves
    loader, judge = (Loader(store, rows, Places(len(rows), seed), SIZE, SIZE, training.batch, share) for seed in (3, 4))
    return Loop(Toy(ranks, batch_norm=batch_norm), loader, judge, training, Path(folder), ranks, watchers, Faults(*faults, rank=ranks.rank))


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def ranks_in_forks(work, world=1, log=None, kill=None, limit_s=120.0):
    """``work(ranks)`` in ``world`` forked processes that find each other as torchrun's would; their exit codes (-9: killed).

    When one ends badly the others get ten seconds to end by themselves. ``kill``: (seconds, ranks) kills these ranks then.
    """
    port, pids = free_port(), {}
    for rank in range(world):
        pid = os.fork()
        if not pid:
            _child(work, rank, world, port, log)
        pids[pid] = rank
    codes, begun = {}, time.monotonic()
    deadline = begun + limit_s
    while pids:
        if kill and time.monotonic() > begun + kill[0]:
            for pid in [pid for pid, rank in pids.items() if rank in kill[1]]:
                os.kill(pid, signal.SIGKILL)
            kill = None
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[pids.pop(pid)] = os.waitstatus_to_exitcode(status)
            if codes[max(codes, key=lambda rank: codes[rank] not in (0, 75, 130))] not in (0, 75, 130):
                deadline = min(deadline, time.monotonic() + 10.0)
        elif time.monotonic() > deadline:
            for left in pids:
                os.kill(left, signal.SIGKILL)
            deadline = float("inf")
        else:
            time.sleep(0.002)
    return [codes[rank] for rank in range(world)]


def _child(work, rank, world, port, log):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1)  # noqa: SIM115
    if world > 1:
        names = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
    code = 1
    try:
        with joined(TRAINING["timeout_s"]) as ranks:
            work(ranks)
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(code)


def train(stored, folder, world=1, faults=(), kill=None, **changes):
    """Exit codes of one call of the toy's training; what it said lies in ``folder/said.txt``."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    work = lambda ranks: make_loop(stored, folder, ranks, faults, **changes).run(WHO)  # noqa: E731
    return ranks_in_forks(work, world, Path(folder) / "said.txt", kill)


def said(folder):
    return (Path(folder) / "said.txt").read_text()


def entries(folder):
    """The journal without what a clock says."""
    lines = [json.loads(line) for line in (Path(folder) / "journal.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time")} for line in lines]


def notes(folder):
    return [entry for entry in entries(folder) if entry["kind"] == "note"]


def checkpoints(folder):
    return sorted(path.name for path in (Path(folder) / "checkpoints").glob("step_*"))


def final(folder):
    """sha256 of all tensors of the last checkpoint: weights, teacher, queue, optimiser."""
    return digest(Path(folder) / "checkpoints" / checkpoints(folder)[-1] / "tensors.safetensors")


def weights(folder):
    """Digest of the learner alone: of a run whose figures differ, too."""
    path = Path(folder) / "checkpoints" / checkpoints(folder)[-1] / "tensors.safetensors"
    return digest_of({name: value.tolist() for name, value in read_tensors(path).items() if name.startswith("learner.")})
