"""Whether a journal goes on from what a dashboard shows of it, repeats that, or says something else by now."""

import pytest

from pipeline.tracking.curve import Pushed, compare, pushed


def start(time=1.0, **who):
    return {"kind": "start", "time": time, "run": "a", **who}


def line(step, loss, time=None, kind="train"):
    return {"kind": kind, "time": step if time is None else time, "step": step, "metrics": {"loss": loss}, "time_step": time}


def note(step, time, **more):
    return {"kind": "note", "time": time, "step": step, "text": "...", **more}


JOURNAL = [start(), line(10, 0.5), line(20, 0.4), line(20, 0.6, kind="evaluate"), line(30, 0.3)]


@pytest.fixture
def before():
    """All of it was pushed, and read again as an MLflow tag gives it back."""
    return Pushed.read(pushed(JOURNAL).text())


def test_what_was_pushed_goes_on_and_only_new_lines_are_new(before):
    assert compare(JOURNAL, before) == "goes on"
    assert before.new(JOURNAL) == []
    longer = [*JOURNAL, note(30, 31.0), line(40, 0.2), line(40, 0.5, kind="evaluate")]
    assert compare(longer, before) == "goes on"
    assert [(entry["kind"], entry["step"]) for entry in before.new(longer)] == [("train", 40), ("evaluate", 40)]


def test_nothing_pushed_goes_on_with_everything():
    assert compare(JOURNAL, Pushed.read("")) == "goes on"
    assert Pushed.read("").new(JOURNAL) == JOURNAL[1:]
    assert compare([], Pushed()) == "goes on"


def test_a_resumed_run_that_repeats_equal_steps_is_behind_until_it_has_done_so(before):
    for repeated in ((), (line(20, 0.4, 51.0),), (line(20, 0.4, 51.0), line(20, 0.6, 52.0, "evaluate"))):
        assert compare([*JOURNAL[:2], *repeated], before) == "is behind"
    again = [*JOURNAL[:2], line(20, 0.4, 51.0), line(20, 0.6, 52.0, "evaluate"), line(30, 0.3, 53.0)]
    assert compare(again, before) == "goes on", "times differ, and nothing else"


def test_other_values_at_the_end_of_a_repetition_were_rewritten(before):
    again = [*JOURNAL[:2], line(20, 0.4, 51.0), line(20, 0.6, 52.0, "evaluate"), line(30, 0.31, 53.0)]
    assert compare(again, before) == "was rewritten"


def test_a_run_that_went_back_was_rewritten_before_it_repeats_anything(before):
    assert compare([*JOURNAL[:2], note(10, 50.0, first_sample=80, skipped=[])], before) == "was rewritten"


def test_a_run_begun_anew_was_rewritten(before):
    assert compare([start(60.0, manifest_digest="another"), line(10, 0.9, 61.0)], before) == "was rewritten"


def test_an_older_copy_is_behind_whatever_it_says():
    went_back = [*JOURNAL[:2], note(10, 50.0, first_sample=80, skipped=[]), line(20, 0.7, 51.0)]
    assert compare(JOURNAL, pushed(went_back)) == "is behind"
    assert compare([start(0.5, manifest_digest="older"), line(10, 0.9, 0.6)], pushed(JOURNAL)) == "is behind"
