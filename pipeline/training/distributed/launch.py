"""What torchrun or Slurm's srun say about this process, read and checked before any process waits for another.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT (and holds the meeting place itself). srun sets SLURM_PROCID,
SLURM_STEP_NUM_TASKS, SLURM_LOCALID and the node list; its first node becomes the meeting place, at a port that follows from the number of
the job.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipeline import __version__

PORTS = (12_000, 20_000)  # first port for Slurm's jobs, and how many: below the range that kernels give to outgoing connections


@dataclass(frozen=True)
class Launched:
    """Who a launcher says this process is, and where all meet; ``hosted``: the launcher itself keeps that place open."""

    rank: int
    world: int
    local_rank: int
    host: str
    port: int
    local_name: str
    meeting: str
    hosted: bool = False


def launched(environment: Mapping[str, str] | None = None) -> Launched | None:
    """None where nobody started several processes. Missing and contradicting variables are a ``ValueError`` that names them."""
    env = os.environ if environment is None else environment
    if "RANK" in env or "WORLD_SIZE" in env:
        return _by_torchrun(env)
    if "SLURM_STEP_ID" in env or "SLURM_STEPID" in env:
        return _by_srun(env)
    if _number(env, "SLURM_NTASKS", "", 1) > 1:
        raise ValueError(
            f"SLURM_NTASKS: is {env['SLURM_NTASKS']}, but this process was not started by srun; write `srun vesalius ...` to use all "
            "tasks, or ask for `--ntasks=1 --cpus-per-task=N` to train in one process"
        )
    return None


def _by_torchrun(env: Mapping[str, str]) -> Launched:
    remedy = "start the training with `torchrun --nproc-per-node GPUS -m pipeline pretrain ...`, or unset RANK and WORLD_SIZE"
    rank, world, local = (_number(env, name, remedy) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    _within("RANK", rank, "WORLD_SIZE", world, remedy)
    _within("LOCAL_RANK", local, "WORLD_SIZE", world, remedy)
    tasks = _number(env, "SLURM_STEP_NUM_TASKS", "", 1)
    if tasks > world:
        raise ValueError(
            f"WORLD_SIZE: is {world}, but srun started {tasks} tasks (SLURM_STEP_NUM_TASKS), each with a torchrun of its own; give "
            "torchrun `--nnodes` and `--rdzv-endpoint`, or leave torchrun out: srun alone is enough"
        )
    host, port = ("localhost", 0) if world == 1 else (_text(env, "MASTER_ADDR", remedy), _number(env, "MASTER_PORT", remedy))
    hosted = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = f"{env.get('TORCHELASTIC_RUN_ID', '')}/{env.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return Launched(rank, world, local, host, port, "LOCAL_RANK", attempt, hosted)


def _by_srun(env: Mapping[str, str]) -> Launched:
    remedy = "start the training with `srun --ntasks-per-node=GPUS vesalius pretrain ...` and let Slurm's variables through"
    total = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
    rank, world, local = (_number(env, name, remedy) for name in ("SLURM_PROCID", total, "SLURM_LOCALID"))
    _within("SLURM_PROCID", rank, total, world, remedy)
    _within("SLURM_LOCALID", local, total, world, remedy)
    step = env.get("SLURM_STEP_ID", env.get("SLURM_STEPID", "0"))
    job = _number(env, "SLURM_JOB_ID", remedy)
    number = job + 101 * int(step if step.isdigit() else 0)
    port = _number(env, "MASTER_PORT", remedy, PORTS[0] + number % PORTS[1])
    return Launched(rank, world, local, _first_host(env), port, "SLURM_LOCALID", f"{job}.{step}")


def _first_host(env: Mapping[str, str]) -> str:
    """Where srun puts task 0."""
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    if env.get("MASTER_ADDR"):
        return env["MASTER_ADDR"]
    if nodes:
        return first_of(nodes)
    if env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES")) == "1":
        return "localhost"
    raise ValueError(
        "SLURM_JOB_NODELIST: is missing, so the ranks cannot find each other; let it through, or set MASTER_ADDR to rank 0's host"
    )


def first_of(nodes: str) -> str:
    """The first host of Slurm's short form: ``gpu[003-007,9],cpu1`` -> ``gpu003``."""
    first = re.match(r"((?:[^,\[]|\[[^\]]*\])+)(?:,|$)", nodes)
    host = re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[1]) if first else ""
    if not re.fullmatch(r"[\w.-]+", host):
        raise ValueError(f"SLURM_JOB_NODELIST: {nodes!r} names no host; set MASTER_ADDR to the host of rank 0")
    return host


def own_device(place: Launched) -> torch.device:
    """The GPU of this rank; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if place.local_rank < count:
        return torch.device("cuda", place.local_rank)
    if count == 1:  # srun --gpus-per-task=1 shows each task its own card only; ``compare`` finds two on one card
        return torch.device("cuda", 0)
    raise ValueError(
        f"{place.local_name}: is {place.local_rank}, but {socket.gethostname()} offers {count} GPUs; start at most {count} processes "
        "there, or look at CUDA_VISIBLE_DEVICES"
    )


def meeting(place: Launched, timeout: timedelta) -> Any:
    """A small table of keys and values that all ranks see, kept by rank 0 or by torchrun."""
    where = f"MASTER_ADDR and MASTER_PORT: {place.host}:{place.port}"
    master = place.rank == 0 and not place.hosted
    try:
        store = dist.TCPStore(place.host, place.port, place.world, master, timeout, wait_for_workers=False)
    except (RuntimeError, ValueError) as error:
        said = str(error).partition("\n")[0]
        if master:
            remedy = "is in use or cannot be opened; set MASTER_PORT to a free port, the same for all ranks"
        else:
            remedy = f"does not answer within {timeout.total_seconds():.0f} s; look at rank 0's messages, and whether this host reaches it"
        raise ValueError(f"{where} {remedy} ({said})") from error
    return dist.PrefixStore(f"vesalius/{place.meeting}", store)


def introduction(store: Any, place: Launched, device: torch.device, timeout_s: float) -> list[dict[str, str]]:
    """Each rank's host, card and versions, in the order of the ranks."""
    card = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else "cpu"
    own = {"host": socket.gethostname(), "card": card, "torch": torch.__version__, "vesalius": __version__}
    store.set(f"rank{place.rank}", json.dumps(own))
    found = []
    for rank in range(place.world):
        try:
            found.append(json.loads(store.get(f"rank{rank}")))
        except RuntimeError as error:
            raise ValueError(f"rank {rank} of {place.world} did not come within {timeout_s:.0f} s; look at its messages") from error
    return found


def compare(ranks: Sequence[Mapping[str, str]]) -> None:
    """Refuses ranks that cannot train together: some without a GPU, two on one card, other versions."""
    for rank, own in enumerate(ranks):
        said = f"rank {rank} on {own['host']}"
        if (own["card"] == "cpu") != (ranks[0]["card"] == "cpu"):
            raise ValueError(
                f"CUDA_VISIBLE_DEVICES: {said} and rank 0 on {ranks[0]['host']} differ: only one of them sees a GPU; give every rank one "
                "(srun: --gpus-per-task=1), or none"
            )
        for name in ("torch", "vesalius"):
            if own[name] != ranks[0][name]:
                raise ValueError(f"{said} runs {name} {own[name]}, but rank 0 runs {ranks[0][name]}; use one environment on all nodes")
        for earlier, other in enumerate(ranks[:rank]):
            if own["card"] != "cpu" and own["card"] == other["card"]:
                raise ValueError(
                    f"CUDA_VISIBLE_DEVICES: ranks {earlier} and {rank} on {own['host']} got one card; start one process a GPU (torchrun: "
                    "--nproc-per-node, srun: --ntasks-per-node), or show each its own"
                )


def _number(env: Mapping[str, str], name: str, remedy: str, default: int | None = None) -> int:
    if default is not None and not env.get(name):
        return default
    text = _text(env, name, remedy)
    if not text.isdigit():
        raise ValueError(f"{name}: is {text!r}, not a number; {remedy}")
    return int(text)


def _text(env: Mapping[str, str], name: str, remedy: str) -> str:
    if not env.get(name):
        raise ValueError(f"{name}: is missing, though other variables of its launcher are set; {remedy}")
    return env[name]


def _within(name: str, value: int, total: str, world: int, remedy: str) -> None:
    if not 0 <= value < world:
        raise ValueError(f"{name}: is {value}, but {total} is {world}; {remedy}")
