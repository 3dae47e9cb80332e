"""`vesalius plan`: what it writes, when it plans again, and what wakes `index`."""

import os

import pytest

import pipeline.plan
from pipeline.files import read_json
from pipeline.verbs import plan as verb
from pipeline.volumes import jobs


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a study of one folder of scans."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans" / "deep").mkdir(parents=True)
    (tmp_path / "scans" / "deep" / "Doe^Jane.nii").write_text("scan")
    (tmp_path / "tiny.yaml").write_text("sources: [{path: '{data}'}]\ndata: scans\nsplit: {test: 1, validation: 1}\n")
    return tmp_path


def plan(**options):
    from pathlib import Path

    verb.run(Path("tiny.yaml"), results=Path("results"), **{"data": None, "refresh": True, **options})
    return read_json("results/tiny/plan.json")


def test_the_plan_is_complete_and_the_sources_name_no_file(place):
    value = plan(refresh=False)
    assert value["study"]["name"] == "tiny"
    assert value["study"]["sources"][0]["path"] == "scans"
    assert value["study"]["split"] == {"test": 1, "validation": 1, "seed": 0}
    digest, number, key = (place / "results" / "tiny" / "sources.txt").read_text().split()
    assert (len(digest), number, key) == (64, "1", "sources.0")


def test_a_plan_that_is_up_to_date_is_not_made_again(place, monkeypatch):
    plan()

    def refuse(*arguments):
        raise AssertionError("planned again")

    monkeypatch.setattr(pipeline.plan, "make_plan", refuse)
    plan()
    with pytest.raises(AssertionError, match="planned again"):
        plan(refresh=False)
    (place / "tiny.yaml").write_text((place / "tiny.yaml").read_text() + "shards: 2\n")
    with pytest.raises(AssertionError, match="planned again"):
        plan()


def test_other_data_or_other_code_is_another_plan(place, monkeypatch):
    plan()
    (place / "other").mkdir()
    assert plan(data="other")["study"]["sources"][0]["path"] == "other"
    assert plan()["study"]["sources"][0]["path"] == "scans"
    monkeypatch.setattr(verb, "_code_digest", lambda: "changed")
    assert plan()["inputs"][verb.CODE] == "changed"


def test_another_format_of_the_store_is_told_and_changes_nothing_else(place, monkeypatch):
    before = plan()
    monkeypatch.setattr(jobs, "FORMAT", jobs.FORMAT + 1)
    assert plan() == before, "the same code has the same format"
    assert plan(refresh=False) == {**before, "store_format": before["store_format"] + 1}
    assert before["store_format"] + 1 == jobs.FORMAT


def test_a_broken_plan_is_made_again(place):
    whole = plan()
    (place / "results" / "tiny" / "plan.json").write_text('{"version": ')
    assert plan() == whole


def test_unchanged_files_are_not_rewritten_and_changed_ones_are(place):
    plan()
    written = [place / "results" / "tiny" / name for name in ("plan.json", "sources.txt")]
    before = [path.stat().st_mtime_ns for path in written]
    plan(refresh=False)
    assert [path.stat().st_mtime_ns for path in written] == before
    sources = written[1].read_text()
    os.utime(place / "scans" / "deep" / "Doe^Jane.nii", ns=(1, 1))
    plan()
    assert written[1].read_text() != sources
    (place / "scans" / "deep" / "new.nii").write_text("scan")
    plan()
    assert written[1].read_text().split()[1] == "2"


def test_results_among_the_scans_are_not_scans(place):
    (place / "tiny.yaml").write_text("sources: [{path: .}]\nsplit: {test: 1, validation: 1}\n")
    plan()
    first = (place / "results" / "tiny" / "sources.txt").read_text()
    plan()
    assert (place / "results" / "tiny" / "sources.txt").read_text() == first


def test_a_missing_folder_is_refused_with_the_remedy(place):
    with pytest.raises(ValueError, match=r"sources\.0: there is no folder 'nowhere'.*--data DIR"):
        plan(data="nowhere")
    assert not (place / "results" / "tiny" / "plan.json").exists()


def test_a_misspelt_key_is_named_with_its_file(place):
    (place / "tiny.yaml").write_text("sources: [{path: scans}]\nsplt: {test: 1, validation: 1}\n")
    with pytest.raises(ValueError, match=r"tiny\.yaml: splt: is not a key here"):
        plan()
