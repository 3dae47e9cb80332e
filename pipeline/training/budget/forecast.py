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
    f"round a ring at {BANDWIDTH / 1e9:.0f} GB/s (PCIe 4) and nothing overlaps with that; evaluation and checkpoints take as long as on one"
)
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
    return Forecast(
        training.steps, hours, rest + kept, rest + kept + measured.checkpoint_bytes, ASSUMPTION, slurm(measured, hours[1], training, name)
    )


def run_s(measured: Measured, training: Training, gpus: int = 1) -> float:
    """Seconds of a run: steps, evaluations, checkpoints."""
    steps, evaluations, saves = counts(training)
    return steps * step_s(measured, gpus) + evaluations * measured.evaluate_s + saves * measured.save_s


def run_cpu_s(measured: Measured, training: Training) -> float:
    """CPU seconds of a run, which other programs on the machine change less."""
    steps, evaluations, saves = counts(training)
    return steps * measured.step_cpu_s + evaluations * measured.evaluate_cpu_s + saves * measured.save_cpu_s


def counts(training: Training) -> tuple[int, int, int]:
    """Steps, evaluations, and checkpoints, of which there is one before the first step."""
    steps = training.steps
    return steps, math.ceil(steps / training.evaluate_every), 1 + math.ceil(steps / training.checkpoint_every)


def step_s(measured: Measured, gpus: int) -> float:
    """Seconds of a step on several GPUs, as ``ASSUMPTION`` says; on one, what was measured."""
    if gpus == 1:
        return measured.step_s
    fixed = measured.stages["update"] + measured.stages["wait"]
    shrinking = sum(value for name, value in measured.stages.items() if name not in ("update", "wait", *BESIDE))
    return fixed + shrinking / gpus + 2 * (gpus - 1) / gpus * measured.gradient_bytes / BANDWIDTH


def slurm(measured: Measured, hours: float, training: Training, name: str) -> tuple[str, ...]:
    """What to ask for: by the workflow's profile, and as the head of a script of one's own."""
    minutes = max(10, math.ceil(MARGIN * hours * 60 / 10) * 10)
    mem_mb = math.ceil(MARGIN * measured.host_bytes / 1e6 / 500) * 500
    cpus = training.threads + 1
    return (
        f"vesalius run STUDY --profile workflow/profiles/slurm -- --set-resources pretrain:runtime={minutes} pretrain:mem_mb={mem_mb}",
        f"#SBATCH --job-name={name} --gpus=1 --cpus-per-task={cpus} --mem={mem_mb}M --time={minutes // 60:02d}:{minutes % 60:02d}:00",
        "#SBATCH --signal=TERM@120 --open-mode=append",
    )
