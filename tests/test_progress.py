"""Progress in plain lines: what was kept from an earlier call says nothing of the rate."""

from pipeline import progress
from pipeline.progress import Progress


def test_kept_units_count_as_done_but_not_towards_the_rate(capsys, monkeypatch):
    clock = iter([0.0, 1.001, 2.002, 10.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with Progress("finetune", 4, unit="cell") as shown:
        shown.advance(kept=True, dice=0.5)
        shown.advance(kept=True, dice=0.5)
        shown.advance(dice=0.5)
        shown.advance(dice=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "finetune: 1/4 dice 0.5"
    assert lines[2] == "finetune: 3/4 0.10 cell/s dice 0.5, 10 s left"
    assert lines[3] == "finetune: 4/4 0.10 cell/s dice 0.5, 0 s left"


def test_what_takes_no_time_is_one_line(capsys, monkeypatch):
    clock = iter([0.01 * tick for tick in range(50)])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with Progress("look", 40) as shown:
        for _ in range(40):
            shown.advance()
    assert capsys.readouterr().err.splitlines() == ["look: 40/40 100.00 step/s, 0 s left"]


def test_a_figure_that_is_not_known_yet_is_left_out(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_A_LINE", 0.0)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with Progress("pretrain", 2) as shown:
        shown.advance(loss=None)
        shown.advance(loss=0.25)
    lines = capsys.readouterr().err.splitlines()
    assert "loss" not in lines[0]
    assert "loss 0.25" in lines[1]
