"""A signal to one rank or to all: one checkpoint at one step, exit code 75 (Ctrl-C: 130), nothing lost, soon."""

import os
import signal
import time

import pytest
import toy

from pipeline.training.injection import Fault
from pipeline.training.signals import Stop, listening, watching


@pytest.mark.parametrize(
    ("act", "world", "rank", "place", "step", "saved"),
    [
        ("term", 1, 0, "step", 7, 8),
        ("usr1", 1, 0, "step", 0, 1),
        ("usr2", 1, 0, "evaluate", 8, 9),
        ("usr2", 1, 0, "save:state", 9, 11),
        ("term", 1, 0, "save:renamed", 23, None),
        ("usr2", 2, 1, "step", 7, 8),
        ("term", 2, 0, "step", 12, 13),
        ("usr1", 2, None, "step", 3, 4),
        ("usr2", 2, 1, "loss", 5, 6),
    ],
)
def test_one_checkpoint_at_one_step_exit_code_75_and_nothing_lost(stored, resumes, tmp_path, act, world, rank, place, step, saved):
    begun = time.monotonic()
    codes = toy.train(stored, tmp_path, world, [Fault(act, place, step, rank)])
    assert time.monotonic() - begun < 10
    if saved is None:  # all was done when the signal came
        assert codes == [0] * world
    else:
        assert codes == [75] * world, toy.said(tmp_path)
        assert toy.checkpoints(tmp_path)[-1] == f"step_{saved:08d}"
    resumes(world)


def test_two_signals_in_a_row_are_one(stored, resumes, tmp_path):
    assert toy.train(stored, tmp_path, 1, [Fault("term", "step", 7), Fault("usr2", "loss", 7)]) == [75]
    assert toy.checkpoints(tmp_path)[-1] == "step_00000008"
    resumes()


@pytest.mark.parametrize("world", [1, 2])
def test_an_interrupt_saves_and_ends_with_130(stored, resumes, tmp_path, world):
    assert toy.train(stored, tmp_path, world, [Fault("interrupt", "step", 7, 0)]) == [130] * world
    assert toy.checkpoints(tmp_path)[-1] == "step_00000008"
    resumes(world)


def test_a_second_interrupt_ends_at_once_and_loses_only_what_was_not_saved(stored, resumes, tmp_path):
    assert toy.train(stored, tmp_path, 1, [Fault("interrupt", "step", 7), Fault("interrupt", "loss", 7)]) == [-signal.SIGINT]
    assert toy.checkpoints(tmp_path)[-1] == "step_00000005"
    resumes()


def test_the_second_interrupt_is_the_kernels_also_in_a_call_that_never_comes_back(tmp_path):
    def hang(ranks):
        with watching():
            os.kill(os.getpid(), signal.SIGINT)
            (tmp_path / "noted").touch()
            time.sleep(60)

    pid = os.fork()
    if not pid:
        toy._child(hang, 0, 1, 0, None)
    while not (tmp_path / "noted").exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT


def test_ctrl_c_weighs_more_than_what_a_scheduler_sends_and_handlers_return():
    before = signal.getsignal(signal.SIGTERM)
    with watching() as stop:
        assert stop.code == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.code == 75
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.code == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert Stop().code == 0


def test_a_signal_before_the_training_is_heard_by_it_and_by_no_later_one():
    before = signal.getsignal(signal.SIGUSR2)
    with listening():
        os.kill(os.getpid(), signal.SIGUSR2)
        with watching() as stop:
            assert stop.code == 75
        with watching() as later:
            assert later.code == 0
        os.kill(os.getpid(), signal.SIGTERM)
    with watching() as stop:
        assert stop.code == 0
    assert signal.getsignal(signal.SIGUSR2) is before
