"""What a whole run will take, from what some steps took."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.recipe import Training
from pipeline.training.budget.measure import BESIDE, Measured
from pipeline.training.checkpoints.checkpoint import KEEP

GPUS = (1, 2, 4, 8)
BANDWIDTH = 20e9  # bytes a second that a ring of GPUs passes on: PCIe 4; NVLink is several times faster
ASSUMPTION = (
    "the batch is divided among the GPUs; views, forward and backward shrink with its share, the update does not; the gradients are passed "
    "round a ring {how}; evaluation and checkpoints take as long as here"
)
GUESSED = f"at {BANDWIDTH / 1e9:.0f} GB/s (PCIe 4; one process measured nothing), and nothing overlaps with that"
MEASURED = "as was measured between the {ranks} processes, of which backward hid a part"
MARGIN = 1.25  # of time and memory that is asked of Slurm


@dataclass(frozen=True)
class Forecast:
    """``hours`` by number of GPUs; ``disk_bytes`` of a run's folder at its end and at most while it runs."""

    steps: int
    hours: dict[int, float]
    disk_bytes: int
    disk_peak_bytes: int
    assumption: str
    slurm: tuple[str, ...]


def forecast(measured: Measured, training: Training, name: str) -> Forecast:
    """Of one run of ``training.steps`` steps, from its first step to its last file."""
    hours = {gpus: run_s(measured, training, gpus) / 3600 for gpus in GPUS if measured.batch % gpus == 0}
    lines = training.steps // training.journal_every + training.steps // training.evaluate_every + 3
    rest = lines * measured.journal_bytes + measured.encoder_bytes
    kept = (KEEP + 1) * measured.checkpoint_bytes  # and the probe's best encoder, which is smaller
    how = GUESSED if measured.ranks == 1 else MEASURED.format(ranks=measured.ranks)
    return Forecast(
        steps=training.steps, hours=hours, disk_bytes=rest + kept, disk_peak_bytes=rest + kept + measured.checkpoint_bytes,
        assumption=ASSUMPTION.format(how=how), slurm=slurm(measured, run_s(measured, training) / 3600, training, name),
    )  # fmt: skip


def run_s(measured: Measured, training: Training, gpus: int | None = None) -> float:
    """Seconds of a run: steps, evaluations, checkpoints; by default with as many processes as were measured."""
    steps, evaluations, saves = counts(training)
    return steps * step_s(measured, gpus or measured.ranks) + evaluations * measured.evaluate_s + saves * measured.save_s


def run_cpu_s(measured: Measured, training: Training) -> float:
    """CPU seconds of a run, which other programs on the machine change less."""
    steps, evaluations, saves = counts(training)
    return steps * measured.step_cpu_s + evaluations * measured.evaluate_cpu_s + saves * measured.save_cpu_s


def counts(training: Training) -> tuple[int, int, int]:
    """Steps, evaluations, and checkpoints, of which there is one before the first step."""
    steps = training.steps
    return steps, math.ceil(steps / training.evaluate_every), 1 + math.ceil(steps / training.checkpoint_every)


def step_s(measured: Measured, gpus: int) -> float:
    """Seconds of a step on so many GPUs, as ``ASSUMPTION`` says; on as many as were measured, what was measured."""
    if gpus == measured.ranks:
        return measured.step_s
    fixed = measured.stages["update"] + measured.stages["wait"]
    shrinking = sum(value for name, value in measured.stages.items() if name not in ("update", "wait", "all-reduce", *BESIDE))
    return fixed + shrinking * measured.ranks / gpus + reduce_s(measured, gpus)


def reduce_s(measured: Measured, gpus: int) -> float:
    """Seconds for the gradients' way round a ring, 2 (n - 1) / n of their size: measured with several processes, else guessed."""
    way = 2 * (gpus - 1) / gpus
    if measured.ranks == 1:
        return way * measured.gradient_bytes / BANDWIDTH
    return way / (2 * (measured.ranks - 1) / measured.ranks) * measured.stages["all-reduce"]


def slurm(measured: Measured, hours: float, training: Training, name: str) -> tuple[str, ...]:
    """What to ask for, with as many GPUs as were measured: by the workflow's profile, and as the head of a script of one's own."""
    minutes = max(10, math.ceil(MARGIN * hours * 60 / 10) * 10)
    mem_mb = math.ceil(MARGIN * measured.ranks * measured.host_bytes / 1e6 / 500) * 500
    cpus, most = measured.ranks * (training.threads + 1), f"{minutes // 60:02d}:{minutes % 60:02d}:00"
    return (
        f"vesalius run STUDY --profile workflow/profiles/slurm -- --set-resources pretrain:runtime={minutes} pretrain:mem_mb={mem_mb}",
        f"#SBATCH --job-name={name} --gpus={measured.ranks} --cpus-per-task={cpus} --mem={mem_mb}M --time={most}",
        "#SBATCH --signal=TERM@120 --open-mode=append",
    )
