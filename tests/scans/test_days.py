"""Dates: days since a subject's first exam, in the shards and in the manifest, and no date anywhere. The disk's forecast, too."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faults.series import make_series, save, store, stored, uid

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.manifest import read_manifest, write_manifest
from pipeline.plan import make_plan, plan_json
from pipeline.scans.days import date_of
from pipeline.verbs import index, preprocess, split

EXAMS = (
    ("P1", "20240110", 0),
    ("P1", "20240301", 51),
    ("P1", "", None),
    ("P2", "20250102", 0),
    ("P3", "19991231", 0),
    ("P3", "20000101", 1),
)


@pytest.mark.parametrize(
    ("values", "same"),
    [
        ({"StudyDate": "20240301"}, "20240301"),
        ({"StudyDate": "2024.03.01"}, "20240301"),
        ({"StudyDate": "20241301", "AcquisitionDate": "20240302"}, "20240302"),
        ({"StudyDate": "", "SeriesDate": "20240303"}, "20240303"),
        ({"StudyDate": "yesterday"}, None),
        ({}, None),
    ],
)
def test_the_first_element_that_holds_a_date_counts(values, same):
    assert date_of(values) == (date_of({"StudyDate": same}) if same else 0)


@pytest.fixture
def where(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    for number, (patient, date, _) in enumerate(EXAMS):
        slices = make_series(shape=(40, 30), series=f"S{number}", offset=number)
        for ds in slices:
            store(ds, stored(ds) + np.random.default_rng([number, int(ds.InstanceNumber)]).integers(0, 400, (40, 30)))
            ds.PatientID, ds.StudyInstanceUID, ds.StudyDate = patient, uid("study", number), date
        save(slices, tmp_path / f"data/{number}")
    (tmp_path / "study.yaml").write_text(
        "sources: [{path: '{data}'}]\nsplit: {test: 1, validation: 1}\nshards: 1\npreprocess: {crop_body: false}\n"
    )
    plan = make_plan(tmp_path / "study.yaml", str(tmp_path / "data"), str(tmp_path / "results"))
    where = StudyFolder(Path(plan.results))
    write_json(where.plan, plan_json(plan))
    return where


def test_days_reach_the_manifest_and_dates_reach_nothing(where):
    index.run(where.root)
    preprocess.run(where.root, "00")
    rows = pd.read_csv(where.shard("00"), sep="\t", dtype=str, keep_default_na=False)
    expected = sorted("" if day is None else str(day) for *_, day in EXAMS)
    assert sorted(rows["day"]) == expected
    split.run(where.root)
    manifest = read_manifest(where.manifest)
    assert manifest["day"].dtype == "Int64"
    assert sorted("" if day is pd.NA else str(day) for day in manifest["day"]) == expected
    whole = b"".join(path.read_bytes() for path in where.root.rglob("*") if path.is_file()) + manifest.to_csv().encode()
    assert not [date for _, date, _ in EXAMS if date and (date.encode() in whole or f"{date[:4]}-{date[4:6]}-{date[6:]}".encode() in whole)]


def test_a_manifest_from_before_days_is_read(where, tmp_path):
    index.run(where.root)
    preprocess.run(where.root, "00")
    split.run(where.root)
    old = read_manifest(where.manifest).drop(columns="day")
    old.to_parquet(tmp_path / "old.parquet")
    assert read_manifest(tmp_path / "old.parquet")["day"].isna().all()
    write_manifest(old, tmp_path / "new.parquet")
    assert read_manifest(tmp_path / "new.parquet")["day"].isna().all()


def test_too_little_disk_is_said_before_anything_is_stored(where, monkeypatch, capsys):
    free = 100_000
    monkeypatch.setattr("pipeline.volumes.forecast.free_bytes", lambda folder: free)
    with pytest.raises(ValueError, match=r"store: needs up to 683 kB more, but only 100 kB are free there; free some"):
        index.run(where.root)
    assert not where.store.exists()
    assert "the store will need at most 683 kB (uncropped, int16 at 90%" in capsys.readouterr().out
    free = 10**9
    index.run(where.root)
    preprocess.run(where.root, "00")
    free = 500_000
    index.run(where.root)
    assert "kB of them still to come; 500 kB are free" in capsys.readouterr().out, "what is stored already needs no more room"
