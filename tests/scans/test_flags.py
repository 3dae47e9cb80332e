"""Flags: what is odd about a scan that is right all the same. In every table that lists it, and nowhere a refusal."""

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from faults.cases import cases
from faults.series import make_enhanced, make_series, save, store, stored, uid

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.manifest import read_manifest, write_manifest
from pipeline.plan import make_plan, plan_json
from pipeline.reports.contents import data_section
from pipeline.scans.dicom import suv
from pipeline.scans.dicom.objects import read_object
from pipeline.scans.flags import FLAGS, Flag, united
from pipeline.scans.identity import Identity
from pipeline.scans.inventory import Place, take_stock
from pipeline.verbs import convert, index, preprocess, split
from pipeline.volumes.store import Store

EXPECTED = {
    "end slice missing of a stated number": "FEWER_IMAGES",
    "end slice missing": "",
    "axial": "",
    "localizers inside the series": "",
    "mosaics of three times": "",
    "enhanced in order": "",
    "monochrome1": "MONOCHROME1",
    "monochrome1 mr": "MONOCHROME1",
    "pet becomes suv": "",
    "pet corrected to injection": "",
    "pet in suv already": "",
    "pet without PatientWeight": "NOT_SUV",
    "pet without RadiopharmaceuticalInformationSequence": "NOT_SUV",
    "pet with a series time rewritten": "NOT_SUV",
    "two beds of a pet": "NOT_SUV",
}


def flags_in(folder: Path) -> set[str]:
    return {scan.flags for scan in take_stock([Place(folder, "scans")], Identity(bytes(32))).scans}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_case_carries_its_flags_and_no_others(name, tmp_path):
    cases("dicom")[name].build(tmp_path / "in")
    assert flags_in(tmp_path / "in") == {EXPECTED[name]}


def acquired(slices, number):
    for ds in slices:
        ds.ImagesInAcquisition = number
    return slices


def test_images_are_counted_over_the_whole_series_and_once(tmp_path):
    two = [ds for offset in (0, 50) for ds in make_series(modality="MR", offset=offset)]
    for number, ds in enumerate(two):
        ds.InstanceNumber = number + 1
    save(acquired(two, 16), tmp_path / "two")
    assert flags_in(tmp_path / "two") == {""}, "two volumes of eight are the sixteen images"
    save(acquired(two[:-1], 16)[7:], tmp_path / "fewer")
    one = acquired(make_series(), 10)[:9]
    save(one, tmp_path / "twice")
    save(one[2:5], tmp_path / "twice", "copy")
    assert flags_in(tmp_path / "twice") == {"FEWER_IMAGES"}, "a copy is no image of its own"


def test_an_enhanced_pet_is_no_suv_and_a_file_of_lean_mass_neither(tmp_path):
    pet = make_enhanced(make_series(modality="PT", slope=0.5))
    pet.SOPClassUID = pet.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.130"
    save([pet], tmp_path / "enhanced")
    assert flags_in(tmp_path / "enhanced") == {"NOT_SUV"}
    slices = make_series(modality="PT", slope=0.5)
    for ds in slices:
        ds.Units, ds.SUVType = "GML", "LBM"
    save(slices, tmp_path / "lean")
    assert flags_in(tmp_path / "lean") == {"NOT_SUV"}


def test_what_an_suv_depends_on_is_read_once_for_all_slices_that_agree_on_it(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(suv, "read_object", lambda path, **options: read.append(path) or read_object(path, **options))
    cases("dicom")["pet becomes suv"].build(tmp_path / "in")
    assert (flags_in(tmp_path / "in"), len(read)) == ({""}, 1)
    path = sorted(path for path in (tmp_path / "in").rglob("*") if path.is_file())[3]
    ds = pydicom.dcmread(path)
    ds.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = 371e6
    ds.save_as(path)
    assert (flags_in(tmp_path / "in"), len(read)) == ({"NOT_SUV"}, 3), "the doses of two slices differ"


def test_flags_of_several_scans_are_each_said_once():
    assert united(["", "NOT_SUV", "MONOCHROME1 NOT_SUV"]) == "MONOCHROME1 NOT_SUV"
    assert united([]) == ""
    assert set(FLAGS) == set(Flag)


def make_data(folder: Path) -> None:
    for number in range(4):
        slices = make_series(shape=(40, 30), series=f"S{number}", offset=number, modality="MR" if number else "CT")
        for ds in slices:
            store(ds, stored(ds) + np.random.default_rng([number, int(ds.InstanceNumber)]).integers(0, 400, (40, 30)))
            ds.PatientID, ds.StudyInstanceUID = f"P{number}", uid("study", number)
        if number == 2:
            acquired(slices, 9)
        if number == 3:
            for ds in slices:
                ds.PhotometricInterpretation = "MONOCHROME1"
        save(slices, folder / str(number))


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flags")
    make_data(folder / "data")
    (folder / "study.yaml").write_text(
        "sources: [{path: '{data}'}]\nsplit: {test: 1, validation: 1}\nshards: 1\npreprocess: {crop_body: false}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VESALIUS_PRIVATE", str(folder / "private"))
        plan = make_plan(folder / "study.yaml", str(folder / "data"), str(folder / "results"))
        where = StudyFolder(Path(plan.results))
        write_json(where.plan, plan_json(plan))
        index.run(where.root)
        preprocess.run(where.root, plan.shards[0])
        split.run(where.root)
    return where


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def test_flags_stand_in_the_inventory_the_shard_the_manifest_and_the_report(where):
    expected = ["", "", "FEWER_IMAGES", "MONOCHROME1"]
    manifest, inventory = read_manifest(where.manifest), table(where.inventory)
    assert sorted(manifest["flags"]) == expected
    assert sorted(table(where.shard("00"))["flags"]) == expected
    assert dict(zip(manifest["scan_id"], manifest["flags"], strict=True)) == dict(
        zip(inventory["scan_id"], inventory["flags"], strict=True)
    )
    assert set(inventory["status"]) == {"volume"}
    section = data_section(manifest)
    assert [row["flags"] for row in section["rows"]] == ["", "FEWER_IMAGES: 1, MONOCHROME1: 1"]
    assert section["flags"] == [{"flag": name, "meaning": FLAGS[Flag(name)]} for name in expected[2:]]


def test_foreground_statistics_of_all_but_ct_stand_in_the_manifest(where):
    store, manifest = Store(where.store), read_manifest(where.manifest)
    assert sorted(manifest["modality"]) == ["CT", "MR", "MR", "MR"]
    for row in manifest.to_dict("records"):
        inside = store.read(row["scan_id"])[0][store.body(row["scan_id"]).astype(bool)] * row["slope"][0] + row["inter"][0]
        expected = (np.nan, np.nan) if row["modality"] == "CT" else (inside.mean(), inside.std())
        np.testing.assert_allclose((row["foreground_mean"][0], row["foreground_std"][0]), expected, rtol=1e-6)


def test_a_manifest_from_before_flags_is_read(where, tmp_path):
    old = read_manifest(where.manifest).drop(columns=["flags", "foreground_mean", "foreground_std"])
    old.to_parquet(tmp_path / "old.parquet")
    write_manifest(old, tmp_path / "new.parquet")
    for name in ("old", "new"):
        read = read_manifest(tmp_path / f"{name}.parquet")
        assert set(read["flags"]) == {""}
        assert all(np.isnan(row).all() and len(row) == 1 for row in read["foreground_mean"])


def test_convert_says_them_too(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    make_data(tmp_path / "data")
    convert.run(tmp_path / "data", tmp_path / "out")
    rows = table(tmp_path / "out" / "inventory.tsv")
    flags = {path.split("/")[0]: own for path, own in zip(rows["path"], rows["flags"], strict=True)}
    assert flags == {"0": "", "1": "", "2": "FEWER_IMAGES", "3": "MONOCHROME1"}
    assert set(rows["status"]) == {"volume"}
