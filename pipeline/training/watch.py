"""Watchers look at a run from outside: the loop calls them and knows nothing of what they look for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.step import Loss, Step

if TYPE_CHECKING:
    from pipeline.training.loop import Loop


class Watcher:
    """Base of all watchers. None may change the run: no gradient, buffer, or random number of it."""

    def stepped(self, loop: Loop, done: int, step: Step, losses: Mapping[str, Loss]) -> None:
        """After ``done`` steps; ``step`` is what the objectives read. On a CPU not after a skipped step; on a GPU, where only the device
        knows of a skip, after every one."""

    def journalled(self, loop: Loop, done: int) -> Mapping[str, float | Tensor]:
        """Figures to stand beside the losses in the journal's next line; called every ``training.journal_every`` steps. A 0-d tensor is
        fetched from the device later, with the losses, and nobody waits for it."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The same for what is too large for JSON, by name."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of ``tensors``; called before the first step, with tensors on the CPU."""

    def state(self) -> dict[str, object]:
        """What must survive a resume, as JSON values; it is kept in the checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, object]) -> None:
        """The inverse of ``state``."""
