"""Checkpoints that are whole or absent, proved by digests, and never unpickled.

``checkpoints/step_00000100/`` holds ``tensors.safetensors``, ``state.json`` and, written last, ``MANIFEST.json`` with the sha256
of each file. The folder is written under another name, synced and renamed. Loading takes the newest folder whose digests hold.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import digest, sync_folder, write_json
from pipeline.training.weights import read_tensors

KEEP = 2


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Writes one checkpoint and prunes older ones; an interrupted save leaves the previous one untouched."""
    folder.mkdir(parents=True, exist_ok=True)
    final, temporary = folder / f"step_{step:08d}", folder / f"tmp_{step:08d}_{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary / "tensors.safetensors")
        write_json(temporary / "state.json", {"step": step, **state})
        _sync_file(temporary / "tensors.safetensors")
        names = ("tensors.safetensors", "state.json")
        write_json(temporary / "MANIFEST.json", {name: digest(temporary / name) for name in names})
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
        sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(folder)
    return final


def load_latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """(tensors, state, complaints) of the newest checkpoint that proves itself; None if there is none to continue from."""
    complaints: list[str] = []
    for path in sorted(folder.glob("step_*"), reverse=True):
        problem = _problem(path)
        if problem:
            complaints.append(f"{path.name}: {problem}; the one before it is used")
            continue
        return read_tensors(path / "tensors.safetensors"), json.loads((path / "state.json").read_text()), complaints
    if complaints:
        raise ValueError(f"{folder}: no checkpoint can be trusted ({'; '.join(complaints)}); remove the folder to begin anew")
    return None


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, by the position of the parameter."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser.{index}.{name}": torch.as_tensor(value) for index, values in state.items() for name, value in values.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of ``optimiser_tensors``; the groups stay as they were built."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    whole = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _problem(path: Path) -> str | None:
    manifest = path / "MANIFEST.json"
    if not manifest.exists():
        return "has no manifest"
    try:
        expected = json.loads(manifest.read_text())
    except json.JSONDecodeError:
        return "has a broken manifest"
    for name, value in expected.items():
        if not (path / name).exists():
            return f"lacks {name}"
        if digest(path / name) != value:
            return f"{name} is not what was written"
    return None


def _prune(folder: Path) -> None:
    """Keeps the newest ones; what is left of interrupted saves goes too."""
    for path in sorted(folder.glob("step_*"), reverse=True)[KEEP:]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("tmp_*"):
        shutil.rmtree(path, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
