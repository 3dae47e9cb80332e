"""The journal: whole lines, torn lines, forgetting what a resumed run writes again."""

import pytest

from pipeline.tracking.journal import Journal, read_journal


def test_lines_come_back_in_order(tmp_path):
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    journal.write("start", run="a")
    journal.write("train", step=1, metrics={"loss": 0.5})
    entries = read_journal(journal.path)
    assert [entry["kind"] for entry in entries] == ["start", "train"]
    assert entries[1]["metrics"] == {"loss": 0.5}


def test_a_torn_last_line_is_left_out(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("train", step=1, metrics={})
    with journal.path.open("a") as handle:
        handle.write('{"kind": "tra')
    assert [entry["step"] for entry in read_journal(journal.path)] == [1]


def test_a_broken_line_in_the_middle_names_the_file_and_the_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"kind": "start"}\nrubbish\n{"kind": "end"}\n')
    with pytest.raises(ValueError, match=r"journal\.jsonl: line 2"):
        read_journal(path)


def test_truncating_forgets_what_came_after_a_checkpoint(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("train", step=1, metrics={})
    position = journal.position()
    journal.write("train", step=2, metrics={})
    journal.truncate(position)
    assert [entry["step"] for entry in read_journal(journal.path)] == [1]


def test_numbers_that_are_not_finite_stay_readable(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("train", step=1, metrics={"loss": float("nan"), "norm": float("inf")})
    assert read_journal(journal.path)[0]["metrics"] == {"loss": "nan", "norm": "inf"}


def test_a_missing_journal_is_empty(tmp_path):
    assert read_journal(tmp_path / "none.jsonl") == []
