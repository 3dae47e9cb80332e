"""The arithmetic of a forecast: what the parts add up to, what several GPUs divide, what fits."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pipeline.buffers import keep_freed_memory
from pipeline.recipe import Training
from pipeline.training.budget import forecast as forecasting
from pipeline.training.budget.clock import Clock, TimedStore
from pipeline.training.budget.forecast import BANDWIDTH, counts, forecast, run_cpu_s, run_s, step_s
from pipeline.training.budget.measure import Measured, shortened
from pipeline.training.budget.memory import Fit, best_size, fit, peak_of
from pipeline.training.budget.rates import PEAKS, flop_of, matmul_rate, peak

STAGES = {"wait": 0.01, "transfer": 0.01, "views": 0.1, "forward": 0.2, "losses": 0.02, "backward": 0.4, "update": 0.06}
MEASURED = Measured(
    device="a card", precision="bf16", threads=4, ranks=1, batch=4, steps=10, step_s=0.8, step_cpu_s=0.7,
    stages={**STAGES, "read": 0.3, "decode": 0.2}, flop=8 * 10**12, peak_flops=1e14, peak_source="a table",
    fit=Fit(4, 1, 10**9, 10**10, "tried"), host_bytes=2_000_000_000, evaluate_s=2.0, evaluate_cpu_s=1.0, save_s=1.0, save_cpu_s=0.5,
    checkpoint_bytes=10**8, journal_bytes=1000, encoder_bytes=10**7, gradient_bytes=4 * 10**8,
)  # fmt: skip
TRAINING = Training(steps=1000, batch=4, checkpoint_every=300, evaluate_every=250, journal_every=10)


def test_a_run_takes_its_steps_evaluations_and_checkpoints():
    assert counts(TRAINING) == (1000, 4, 5)
    assert run_s(MEASURED, TRAINING) == pytest.approx(1000 * 0.8 + 4 * 2.0 + 5 * 1.0)
    assert run_cpu_s(MEASURED, TRAINING) == pytest.approx(1000 * 0.7 + 4 * 1.0 + 5 * 0.5)
    assert shortened(TRAINING, 20, every=10).evaluate_every == 10
    assert shortened(TRAINING, 20).checkpoint_every == 20


def test_more_gpus_divide_what_shrinks_with_a_batch_and_pay_for_passing_gradients_on():
    ring = 2 * 3 / 4 * 4e8 / BANDWIDTH
    assert step_s(MEASURED, 1) == 0.8
    assert step_s(MEASURED, 4) == pytest.approx((0.01 + 0.1 + 0.2 + 0.02 + 0.4) / 4 + 0.01 + 0.06 + ring)
    found = forecast(MEASURED, TRAINING, "recipe")
    assert set(found.hours) == {1, 2, 4}, "a batch of 4 cannot be divided among 8"
    assert found.hours[1] > found.hours[2] > found.hours[4]
    assert found.hours[1] == pytest.approx(run_s(MEASURED, TRAINING) / 3600)


def test_what_several_processes_measured_stands_for_other_numbers_of_them():
    pair = replace(MEASURED, ranks=2, stages={**MEASURED.stages, "all-reduce": 0.03})
    work = 0.01 + 0.1 + 0.2 + 0.02 + 0.4
    assert step_s(pair, 2) == pair.step_s == 0.8
    assert step_s(pair, 1) == pytest.approx(2 * work + 0.01 + 0.06)
    assert step_s(pair, 4) == pytest.approx(work / 2 + 0.01 + 0.06 + 1.5 * 0.03), "the way round a ring of four is half as long again"
    assert run_s(pair, TRAINING) == pytest.approx(1000 * 0.8 + 4 * 2.0 + 5 * 1.0)
    found, guess = forecast(pair, TRAINING, "recipe"), forecast(MEASURED, TRAINING, "recipe")
    assert "measured between the 2 processes" in found.assumption
    assert "one process measured nothing" in guess.assumption
    assert "--gpus=2 --cpus-per-task=4 --mem=5000M" in found.slurm[1]


def test_disk_holds_checkpoints_journal_and_encoder():
    found = forecast(MEASURED, TRAINING, "recipe")
    kept = (forecasting.KEEP + 1) * 10**8
    assert found.disk_bytes == pytest.approx(kept + 10**7 + 107 * 1000, abs=5000)
    assert found.disk_peak_bytes - found.disk_bytes == 10**8


def test_slurm_is_asked_for_a_margin():
    slow = replace(MEASURED, step_s=36.0)
    lines = " ".join(forecast(slow, TRAINING, "recipe").slurm)
    assert "pretrain:runtime=760" in lines
    assert "--time=12:40:00" in lines
    assert "pretrain:mem_mb=2500" in lines
    assert "--cpus-per-task=2" in lines
    assert "--gpus=1" in lines


def test_the_largest_micro_batch_that_fits_is_taken_and_none_is_refused():
    assert best_size([1, 2, 4, 8], one=10, slope=2, limit=16) == 4
    assert best_size([1, 2, 4, 8], one=10, slope=2, limit=100) == 8
    with pytest.raises(ValueError, match="not even one crop"):
        best_size([1, 2], one=10, slope=2, limit=9)


def test_memory_of_a_step_is_seen_to_grow_with_its_crops():
    def backward(crops):
        return torch.ones(crops, 16 << 20).sum()  # 64 MiB a crop

    keep_freed_memory()  # as a training does before it is measured
    backward(16)
    found = fit(torch.device("cpu"), 8, backward)
    assert (found.micro_batch, found.accumulation) == (8, 1)
    one = peak_of(lambda: backward(1))
    assert found.peak_bytes - one == pytest.approx(7 * (64 << 20), rel=0.25)


def test_a_gpu_is_tried_until_it_runs_out_of_memory(monkeypatch):
    used = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=100))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: used[-1])
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)

    def backward(crops, most):
        used.append(10 * crops)
        if crops > most:
            raise torch.cuda.OutOfMemoryError

    gpu = torch.device("cuda")
    assert fit(gpu, 12, lambda crops: backward(crops, 4)) == Fit(4, 3, 40, 100, "tried")
    assert used == [10, 20, 30, 40, 60]
    assert fit(gpu, 12, lambda crops: backward(crops, 99)).micro_batch == 6, "nine tenths of the memory may be used"
    with pytest.raises(ValueError, match="not even one crop fits on this GPU"):
        fit(gpu, 12, lambda crops: backward(crops, 0))


def test_work_is_counted_by_the_formula_and_peaks_are_known_by_name(monkeypatch):
    conv = torch.nn.Conv3d(2, 5, 3, padding=1, bias=False)
    assert flop_of(lambda: conv(torch.zeros(1, 2, 4, 6, 8))) == 2 * 5 * 2 * 27 * 4 * 6 * 8
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    assert peak(torch.device("cuda"), "bf16")[0] == PEAKS["H100 PCIe"][0] * 1e12
    assert peak(torch.device("cuda"), "fp32")[0] == PEAKS["H100 PCIe"][1] * 1e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    assert peak(torch.device("cuda"), "bf16") == (312e12, "data sheet of A100, bf16, dense")
    assert matmul_rate(torch.device("cpu"), torch.float32, size=64, patience_s=0.0) > 0


def test_spans_add_up_and_reads_are_told_from_decoding():
    clock = Clock(torch.device("cpu"))
    for _ in range(3):
        with clock.span("outer"):
            clock.timed("inner", lambda: sum(range(1000)))()
    seconds = clock.seconds()
    assert 0 < seconds["inner"] <= seconds["outer"]
    assert len(clock.spans["inner"]) == 3
    clock.on = False
    clock.add("inner", 5.0)
    assert clock.seconds() == seconds

    class Store:
        root = "here"

        def crop(self, name, size=1):
            return name, size

    clock = Clock(torch.device("cpu"))
    store = TimedStore(Store(), clock)
    assert store.crop("a", size=3) == ("a", 3)
    assert store.root == "here"
    assert set(clock.spans) == {"read", "decode"}
