"""Some real steps of a recipe on the machine at hand, and all that a forecast is made of."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.recipe import Training
from pipeline.step import to_device
from pipeline.tracking.costs import processor
from pipeline.training.budget.clock import Clock, TimedStore
from pipeline.training.budget.memory import Fit, fit, own_fit, peak_bytes
from pipeline.training.budget.rates import flop_of, peak
from pipeline.training.loop import Loop
from pipeline.training.micro import part

WARM = 3  # steps that are not counted: memory is laid out, kernels are chosen
BESIDE = ("read", "decode")  # stages that run in the loader's threads beside the steps
TRANSFERS = 5


@dataclass(frozen=True)
class Measured:
    """Seconds are means over ``steps`` steps. ``stages``: seconds of a step by what they went to, those of ``BESIDE`` beside it;
    ``all-reduce`` only with several ``ranks``: what backward waits for the others' gradients. ``batch`` is that of all ranks, ``flop`` and
    memory are rank 0's."""

    device: str
    precision: str
    threads: int
    ranks: int
    batch: int
    steps: int
    step_s: float
    step_cpu_s: float
    stages: dict[str, float]
    flop: int
    peak_flops: float
    peak_source: str
    fit: Fit
    host_bytes: int
    evaluate_s: float
    evaluate_cpu_s: float
    save_s: float
    save_cpu_s: float
    checkpoint_bytes: int
    journal_bytes: int
    encoder_bytes: int
    gradient_bytes: int

    @property
    def achieved_flops(self) -> float:
        return self.flop / self.step_s


def shortened(training: Training, steps: int, every: int | None = None) -> Training:
    """The same for fewer steps, with an evaluation and a checkpoint every ``every`` steps, or at the end only."""
    changes = {"steps": steps, "evaluate_every": every or steps, "checkpoint_every": every or steps}
    return training.model_copy(update=changes)


def fitted(loop: Loop) -> Fit:
    """The micro-batch that fits on the device of a loop. Where the whole batch does not, the loop is good for nothing afterwards.

    Several ranks do not search, for one that runs out of memory would leave the others waiting: they measure the recipe's own.
    """
    region = to_device(loop.loader.region(0), loop.device)
    own = loop.micro_batch
    if loop.ranks.world > 1:
        return own_fit(loop.device, own, len(region.ids.sample), lambda: _step(loop, region, own))
    try:
        return fit(loop.device, loop.loader.batch, lambda size: _step(loop, part(region, slice(size)), size))
    finally:
        loop.micro_batch = own


def measure(loop: Loop, steps: int, found: Fit) -> Measured | None:
    """Runs a fresh loop of ``WARM + steps`` steps, with one evaluation and one checkpoint at its end; None on ranks that do not lead."""
    device, learner, batch = loop.device, loop.learner, loop.loader.batch
    region = to_device(loop.loader.region(0), device)
    flop = flop_of(lambda: _step(loop, region, loop.micro_batch))
    clock, marks = Clock(device), {}
    attach(loop, clock, marks)
    loop.run({"run": "budget"})
    if not loop.ranks.leads:
        return None
    seconds = {stage: value / steps for stage, value in clock.seconds().items()}
    encoder = sum(value.nbytes for value in learner.network.state_dict().values())
    newest = sorted(loop.folder.glob("checkpoints/step_*"))[-1]
    journal = (loop.folder / "journal.jsonl").read_bytes().splitlines()
    top, source = peak(device, learner.precision)
    return Measured(
        device=_name(device), precision=learner.precision, threads=torch.get_num_threads(), ranks=loop.ranks.world,
        batch=batch, steps=steps, step_s=marks["wall"] / steps, step_cpu_s=marks["cpu"] / steps,
        stages=_stages(seconds, marks["wall"] / steps, _transfer_s(loop, region)), flop=flop, peak_flops=top, peak_source=source, fit=found,
        host_bytes=peak_bytes(), evaluate_s=marks.get("evaluate", 0.0),
        evaluate_cpu_s=marks.get("evaluate_cpu", 0.0), save_s=marks["save"], save_cpu_s=marks["save_cpu"],
        checkpoint_bytes=_bytes(newest),
        journal_bytes=max(len(line) + 1 for line in journal), encoder_bytes=2 * encoder, gradient_bytes=sum(p.nbytes for p in loop.trained),
    )  # fmt: skip


def attach(loop: Loop, clock: Clock, marks: dict[str, float]) -> None:
    """Spans around what a step is made of; ``marks`` gets the wall and CPU seconds of all steps but the first ``WARM``, and of the rest."""
    learner, last, step = loop.learner, loop.training.steps - 1, loop.step
    learner.look = clock.timed("views", learner.look)
    learner.backward = clock.timed("learner", learner.backward)
    for network in (learner.network, learner.teacher):
        if network is not None:
            called = "forward" if getattr(network, "_compiled_call_impl", None) is None else "_compiled_call_impl"
            setattr(network, called, clock.timed("forward", getattr(network, called)))
    if loop.ranks.world > 1:
        learner.reducer.finish = clock.timed("all-reduce", learner.reducer.finish)
    for objective in learner.objectives.values():
        objective.forward = clock.timed("losses", objective.forward)
    loop.loader.store = TimedStore(loop.loader.store, clock)

    def counted(number: int, region: Any) -> Any:
        if number == WARM:
            marks["begun"], marks["cpu"] = clock.wait(), time.process_time()
            clock.clear()
        with clock.span("step"):
            result = step(number, region)
        if number == last:
            marks["wall"], marks["cpu"] = clock.wait() - marks["begun"], time.process_time() - marks["cpu"]
            clock.on = False
        return result

    loop.step = counted
    loop.evaluate = partial(_lasting, marks, "evaluate", clock, loop.evaluate)
    loop.checkpoints.save = partial(_lasting, marks, "save", clock, loop.checkpoints.save)


def _lasting(marks: dict[str, float], name: str, clock: Clock, act: Any, *arguments: Any) -> Any:
    begun, cpu = clock.wait(), time.process_time()
    result = act(*arguments)
    marks[name], marks[f"{name}_cpu"] = clock.wait() - begun, time.process_time() - cpu
    return result


def _stages(seconds: dict[str, float], step_s: float, transfer_s: float) -> dict[str, float]:
    """Parts of a step that add up to it, and those beside it."""
    named = {name: seconds.get(name, 0.0) for name in ("views", "forward", "losses")}
    reduced = {name: seconds[name] for name in ("all-reduce",) if name in seconds}
    backward = max(0.0, seconds["learner"] - sum(named.values()) - sum(reduced.values()))
    update = max(0.0, seconds["step"] - seconds["learner"])
    wait = max(0.0, step_s - seconds["step"] - transfer_s)
    parts = {"wait": wait, "transfer": transfer_s, **named, "backward": backward, **reduced, "update": update}
    return {**parts, **{name: seconds.get(name, 0.0) for name in BESIDE}}


def _transfer_s(loop: Loop, region: Any) -> float:
    """Of a batch from the host to the device; nothing on a CPU."""
    if loop.device.type != "cuda":
        return 0.0
    host = to_device(region, "cpu")
    clock = Clock(loop.device)
    for _ in range(TRANSFERS):
        with clock.span("transfer"):
            to_device(host, loop.device)
    return clock.seconds()["transfer"] / TRANSFERS


def _step(loop: Loop, region: Any, micro_batch: int) -> None:
    """One step of the loop, which is not yet running, with micro-batches of a size; no watcher sees it."""
    watchers, loop.watchers, loop.micro_batch = loop.watchers, (), micro_batch
    try:
        loop.step(0, region)
    finally:
        loop.watchers = watchers


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor()
