"""Checkpoints that are whole or absent, proved by digests, and never unpickled.

``checkpoints/step_00000100/`` holds ``tensors.safetensors``, ``state.json`` and ``MANIFEST.json``. They are written and synced under
another name, the manifest last; then the folder is renamed, the parent synced, the pointer ``latest`` swapped, and older ones pruned. The
manifest says how the checkpoint was made and has size and sha256 of each file and of itself: one flipped bit anywhere is found. Loading
takes the newest checkpoint that proves itself.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import digest, digest_of, sync_folder, write_text
from pipeline.training.checkpoints.weights import read_tensors

KEEP = 2
TENSORS, STATE, MANIFEST, POINTER = "tensors.safetensors", "state.json", "MANIFEST.json", "latest"
FILES = (TENSORS, STATE)
MAX_MANIFEST_BYTES, MAX_STATE_BYTES = 64 << 10, 64 << 20
# Where a save can be cut short; the tests kill it at each.
STAGES = ("begin", "tensors", "state", "manifest", "rename", "renamed", "pointer", "prune")


@dataclass(frozen=True)
class Loaded:
    """``made`` is what the manifest says of how it was made; ``complaints`` name the newer checkpoints that were passed over."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    made: dict[str, Any]
    complaints: tuple[str, ...] = ()


@dataclass
class Checkpoints:
    """The checkpoints of one run. ``at`` is called at every stage of a save."""

    folder: Path
    keep: int = KEEP
    at: Callable[[str], None] = lambda stage: None
    _proved: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], made: Mapping[str, Any] | None = None) -> Path:
        """Writes one checkpoint and prunes older ones; an interrupted save leaves the others untouched."""
        self.folder.mkdir(parents=True, exist_ok=True)
        owner = os.environ.get("SLURM_JOB_ID", socket.gethostname())
        final, temporary = self.folder / f"step_{step:08d}", self.folder / f"tmp_{step:08d}_{owner}_{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        self.at("begin")
        temporary.mkdir()
        try:
            self._write(temporary, step, tensors, state, made or {})
            self.at("rename")
            if final.exists():  # one that was passed over on loading: this run has come to its step again
                self._remove(final)
            os.rename(temporary, final)
            sync_folder(self.folder)
        except BaseException:
            with suppress(OSError):
                shutil.rmtree(temporary)
            raise
        self.at("renamed")
        self._proved[final.name] = _looks(final)
        write_text(self.folder / POINTER, final.name + "\n")
        self.at("pointer")
        self._prune()
        return final

    def load(self) -> Loaded | None:
        """The newest checkpoint that proves itself; None if there is none to continue from.

        If there are some and none proves itself, that is a ``ValueError`` with the list.
        """
        complaints: list[str] = []
        for path in self.candidates():
            problem = self.problem(path)
            if problem:
                complaints.append(f"{path.name}: {problem}; the one before it is used")
                continue
            return self.read(_step(path), tuple(complaints))
        if complaints:
            raise ValueError(f"{self.folder}: no checkpoint can be trusted ({'; '.join(complaints)}); remove the folder to begin anew")
        return None

    def read(self, step: int, complaints: tuple[str, ...] = ()) -> Loaded:
        """A checkpoint that somebody has proved: this process, or rank 0."""
        path = self.folder / f"step_{step:08d}"
        made = json.loads((path / MANIFEST).read_bytes())["made"]
        return Loaded(step, read_tensors(path / TENSORS), json.loads((path / STATE).read_bytes()), made, complaints)

    def candidates(self) -> list[Path]:
        """Newest first. The pointer's is among them even where a network file system lists the folder late; temporary ones never are."""
        named = {path.name for path in self.folder.glob("step_*")}
        with suppress(OSError, UnicodeDecodeError):
            named.add((self.folder / POINTER).read_text()[:64].strip())
        return [self.folder / name for name in sorted(named, reverse=True) if _is_name(name) and (self.folder / name).is_dir()]

    def problem(self, path: Path) -> str | None:
        """What is wrong with a checkpoint: every byte is read and compared with what its manifest says, unless this process already did."""
        looks = _looks(path)
        if looks and self._proved.get(path.name) == looks:
            return None
        try:
            problem = _problem(path)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        if problem is None:
            self._proved[path.name] = looks
        return problem

    def _write(self, folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], made: Mapping[str, Any]) -> None:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / TENSORS)
        _sync(folder / TENSORS)
        self.at("tensors")
        (folder / STATE).write_bytes(_json({"step": step, **state}))
        _sync(folder / STATE)
        self.at("state")
        files = {name: {"bytes": (folder / name).stat().st_size, "sha256": digest(folder / name)} for name in FILES}
        (folder / MANIFEST).write_bytes(_sealed({"step": step, "made": dict(made), "files": files}))
        _sync(folder / MANIFEST)
        sync_folder(folder)
        self.at("manifest")

    def _prune(self) -> None:
        """Keeps the newest ``keep`` that prove themselves, so never removes the only one; what is left of interrupted saves goes too."""
        proved = 0
        for path in self.candidates():
            if proved >= self.keep:
                self._remove(path)
            elif self.problem(path) is None:
                proved += 1
        for path in self.folder.glob("tmp_*"):
            shutil.rmtree(path, ignore_errors=True)

    def _remove(self, path: Path) -> None:
        """First its name goes, so that what is half removed is no checkpoint."""
        self._proved.pop(path.name, None)
        gone = path.with_name(f"tmp_old_{path.name}")
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(path, gone)
        self.at("prune")
        shutil.rmtree(gone, ignore_errors=True)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, by the position of the parameter."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser.{index}.{name}": torch.as_tensor(value) for index, values in state.items() for name, value in values.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of ``optimiser_tensors``; the groups stay as they were built."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    whole = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _problem(path: Path) -> str | None:
    """A manifest that is not byte for byte what was sealed, or a file that is not what it says."""
    if not (path / MANIFEST).exists():
        return "has no manifest"
    if (path / MANIFEST).stat().st_size > MAX_MANIFEST_BYTES:
        return "has a manifest too large to be one"
    raw = (path / MANIFEST).read_bytes()
    try:
        manifest = json.loads(raw)
        whole = isinstance(manifest, dict) and _sealed({key: value for key, value in manifest.items() if key != "seal"}) == raw
        files = manifest["files"] if whole else {}
    except (ValueError, RecursionError, KeyError):
        whole, files = False, {}
    if not whole or set(files) != set(FILES) or manifest["step"] != _step(path):
        return "has a broken manifest"
    for name in FILES:
        try:
            kind = (path / name).lstat()
        except FileNotFoundError:
            return f"lacks {name}"
        if not stat.S_ISREG(kind.st_mode) or kind.st_size != files[name]["bytes"] or (name == STATE and kind.st_size > MAX_STATE_BYTES):
            return f"{name} has another size than was written"
        if digest(path / name) != files[name]["sha256"]:
            return f"{name} is not what was written"
    return None


def _sealed(value: dict[str, Any]) -> bytes:
    """JSON with its own digest under ``seal``, in one form only: another space would be another file."""
    return _json({**value, "seal": digest_of(value)})


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _looks(path: Path) -> tuple[int, ...]:
    """Size, time and number of each file: as long as they stay, what was proved stays proved. Empty if one is missing."""
    try:
        found = [(path / name).lstat() for name in (*FILES, MANIFEST)]
    except OSError:
        return ()
    return tuple(number for item in found for number in (item.st_ino, item.st_size, item.st_mtime_ns))


def _is_name(name: str) -> bool:
    return name.startswith("step_") and name[5:].isdecimal() and name.isascii()


def _step(path: Path) -> int:
    return int(path.name[5:])


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
