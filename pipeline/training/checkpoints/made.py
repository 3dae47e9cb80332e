"""How a checkpoint was made, and what a run that continues it must share with it.

The same recipe, seed and manifest, or it is another run: refused. The same code, PyTorch, device, threads and number of ranks, or it is the
same run that is not promised to be bit-equal: continued, and the journal says so.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pipeline import __version__
from pipeline.recipe import Training
from pipeline.training.distributed.ranks import Ranks

SAME = {"recipe_digest": "recipe", "manifest_digest": "manifest", "seed": "seed", "steps": "training.steps", "batch": "training.batch"}
NOTED = {
    "version": "version of Vesalius", "code": "code", "torch": "PyTorch", "device": "device", "threads": "training.threads",
    "world": "number of ranks",
}  # fmt: skip


def made(who: dict[str, Any], training: Training, ranks: Ranks) -> dict[str, Any]:
    """What stands in a checkpoint's manifest."""
    device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else platform.machine()
    own = {"version": __version__, "code": code_digest(), "torch": torch.__version__, "device": device, "threads": training.threads}
    return {**{key: who.get(key) for key in ("recipe_digest", "manifest_digest", "seed")}, **own, "world": ranks.world,
            "steps": training.steps, "batch": training.batch}  # fmt: skip


def compare(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Lines for the journal; a ``ValueError`` if the checkpoint is of another run."""
    for key, words in SAME.items():
        if before.get(key) != now[key]:
            remedy = f"remove {folder} to begin anew, or give the new run a folder of its own"
            raise ValueError(f"{folder}: was written with another {words} ({before.get(key)}, now {now[key]}); {remedy}")
    changed = [f"{words} {before.get(key)} -> {now[key]}" for key, words in NOTED.items() if before.get(key) != now[key]]
    if not changed:
        return []
    samples = "every step has the same samples, " if before.get("world") != now["world"] else ""
    return [
        f"continued with {', '.join(changed)}: {samples}sums may be taken in another order, so weights agree to rounding, not bit for bit"
    ]


@cache
def code_digest() -> str:
    """The first 12 digits of the sha256 of all sources: a version number does not change with every edit."""
    root = Path(__file__).resolve().parents[2]
    found = hashlib.sha256()
    for path in sorted([*(root / "pipeline").rglob("*.py"), *(root / "anatomy").rglob("*.py")]):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]
