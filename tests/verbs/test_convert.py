"""`vesalius convert`: every file is accounted for, every volume is right, nothing says whose it is, and a call that was stopped goes on."""

import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import typer
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from pipeline.verbs import convert

UNITS_AT_ORIGIN = np.array([[0.8, 0, 0, -31.5], [0, 0.7, 0.1, 12.25], [0, -0.02, 2.5, 7.0], [0, 0, 0, 1]])


def turned(spacing=(0.8, 0.7, 2.5), degrees=12.0) -> np.ndarray:
    """An oblique affine without shear."""
    a = np.radians(degrees)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]) * spacing
    affine[:3, 3] = (-31.5, 12.25, 7.0)
    return affine


def save_nifti(path: Path, voxels, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, turned() if affine is None else affine)
    image.header["descrip"] = b"Mallory was here"
    nibabel.save(image, path)
    return path


def save_series(folder: Path, count=6, patient="Mallory") -> np.ndarray:
    """A CT series; its values in HU, (columns, rows, slices)."""
    folder.mkdir(parents=True)
    series, study = generate_uid(entropy_srcs=[patient]), generate_uid(entropy_srcs=[patient, "study"])
    stored = np.random.default_rng(0).integers(0, 2000, (count, 7, 5)).astype(np.uint16)
    for number, pixels in enumerate(stored):
        ds = Dataset()
        ds.SOPClassUID, ds.Modality, ds.SOPInstanceUID = (
            "1.2.840.10008.5.1.4.1.1.2",
            "CT",
            generate_uid(entropy_srcs=[patient, str(number)]),
        )
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.PatientID, ds.PatientName = series, study, patient, patient
        ds.ImageType, ds.ImagePositionPatient, ds.ImageOrientationPatient = (
            ["ORIGINAL", "PRIMARY"],
            [0, 0, 3.0 * number],
            [1, 0, 0, 0, 1, 0],
        )
        ds.PixelSpacing, ds.SamplesPerPixel, ds.PhotometricInterpretation = [1.5, 1.25], 1, "MONOCHROME2"
        ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 7, 5, 16, 16, 15, 0
        ds.RescaleSlope, ds.RescaleIntercept, ds.PixelData = 1, -1024, pixels.tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        pydicom.dcmwrite(folder / f"{number:03d}", ds, enforce_file_format=True)
    return stored.astype(np.int16).transpose(2, 1, 0) - 1024


@pytest.fixture
def scans(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    rng = np.random.default_rng(1)
    save_nifti(tmp_path / "in/sub-1/ses-1/anat/sub-1_ses-1_run-01_T1w.nii.gz", rng.integers(0, 900, (6, 7, 8)).astype(np.int16))
    save_nifti(tmp_path / "in/sub-1/ses-2/anat/sub-1_ses-2_run-02_T1w.nii.gz", rng.normal(size=(6, 7, 8)).astype(np.float32))
    save_nifti(tmp_path / "in/sub-1/ses-2/anat/sub-1_ses-2_FLAIR.nii.gz", rng.integers(0, 60000, (6, 7, 8)).astype(np.uint16))
    save_series(tmp_path / "in/archive/Mallory")
    (tmp_path / "in/notes.txt").write_text("words")
    (tmp_path / "in/broken.nii.gz").write_bytes(b"\x1f\x8b\x08" + bytes(40))
    return tmp_path / "in"


def table(path: Path) -> list[dict[str, str]]:
    header, *lines = path.read_text().splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def volume_of(out: Path, ending: str):
    row = next(row for row in table(out / "inventory.tsv") if row["path"].endswith(ending))
    return nibabel.load(out / f"{row['scan_id']}.nii.gz")


def test_each_file_has_one_row_and_each_accepted_scan_one_volume(scans, tmp_path):
    out = tmp_path / "out"
    convert.run(scans, out)
    rows = table(out / "inventory.tsv")
    files = sorted(path.relative_to(scans).as_posix() for path in scans.rglob("*") if path.is_file())
    assert [row["path"] for row in rows] == files
    status = {row["path"]: (row["status"], row["code"]) for row in rows}
    assert status["notes.txt"] == ("not_image", "")
    assert status["broken.nii.gz"][0] == "quarantined"
    assert status["broken.nii.gz"][1]
    volumes = {row["scan_id"] for row in rows if row["status"] == "volume"}
    assert {path.name.removesuffix(".nii.gz") for path in out.glob("*.nii.gz")} == volumes
    assert len(volumes) == 4
    assert sum(row["status"] == "volume" for row in rows) == 9


def test_values_and_places_are_those_of_the_source(scans, tmp_path):
    out = tmp_path / "out"
    convert.run(scans, out)
    for name, kind in (("run-01_T1w.nii.gz", np.int16), ("run-02_T1w.nii.gz", np.float32), ("FLAIR.nii.gz", np.uint16)):
        source = nibabel.load(next(scans.rglob(f"*{name}")))
        written = volume_of(out, name)
        assert written.get_data_dtype() == kind
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), np.asanyarray(source.dataobj))
        np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    ct = volume_of(out, "archive/Mallory/000")
    expected = nibabel.orientations.apply_orientation(
        np.asanyarray(ct.dataobj),
        nibabel.orientations.ornt_transform(nibabel.io_orientation(ct.affine), nibabel.io_orientation(np.diag([-1, -1, 1, 1]))),
    )
    hu = np.random.default_rng(0).integers(0, 2000, (6, 7, 5)).astype(np.int16).transpose(2, 1, 0) - 1024
    np.testing.assert_array_equal(expected, hu)
    np.testing.assert_allclose(ct.header.get_zooms(), (1.25, 1.5, 3.0), atol=1e-6)


def test_sform_is_qform_and_no_text_stands_in_a_header(scans, tmp_path):
    out = tmp_path / "out"
    convert.run(scans, out)
    for path in out.glob("*.nii.gz"):
        header = nibabel.load(path).header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
        np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=1e-4)
        assert all(not bytes(header[key].item()) for key in ("descrip", "aux_file", "intent_name", "db_name", "data_type"))
        assert not header.extensions


def test_only_the_private_table_names_files(scans, tmp_path, capfd):
    out = tmp_path / "out"
    convert.run(scans, out)
    assert (out / "inventory.tsv").stat().st_mode & 0o777 == 0o600
    said = "".join(capfd.readouterr()).replace(str(tmp_path), "")
    public = b"".join(path.read_bytes() for path in out.iterdir() if path.name != "inventory.tsv") + said.encode()
    for word in (b"Mallory", b"sub-1", b"broken.nii", b"notes.txt"):
        assert word not in public
    (row,) = table(out / "quarantine.tsv")
    assert row["reason"]
    assert row["remedy"]


def test_strict_exits_with_3_and_only_if_something_was_refused(scans, tmp_path):
    with pytest.raises(typer.Exit) as left:
        convert.run(scans, tmp_path / "out", strict=True)
    assert left.value.exit_code == 3
    (scans / "broken.nii.gz").unlink()
    convert.run(scans, tmp_path / "out", strict=True)


def test_equal_input_gives_equal_bytes_and_a_second_call_reads_no_scan(scans, tmp_path, monkeypatch):
    convert.run(scans, tmp_path / "one")
    convert.run(scans, tmp_path / "two")
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    monkeypatch.setattr("pipeline.scans.reading.read_scan", lambda *_: pytest.fail("a kept volume was read again"))
    convert.run(scans, tmp_path / "one")
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == one


def test_a_stopped_call_is_continued_byte_for_byte(scans, tmp_path):
    out = tmp_path / "out"
    convert.run(scans, out)
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    log = (out / "volumes.tsv").read_text()
    gone = log.splitlines()[2].split("\t")[0]
    (out / f"{gone}.nii.gz").unlink()
    (out / "inventory.tsv").unlink()
    (out / "volumes.tsv").write_text(log[: -len(log.splitlines()[-1]) // 2])
    convert.run(scans, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


def test_a_source_that_breaks_or_goes_takes_its_volume_with_it(scans, tmp_path):
    out = tmp_path / "out"
    convert.run(scans, out)
    flair = next(scans.rglob("*FLAIR.nii.gz"))
    scan = next(row["scan_id"] for row in table(out / "inventory.tsv") if row["path"].endswith("FLAIR.nii.gz"))
    flair.write_bytes(flair.read_bytes()[:-40])
    shutil.rmtree(scans / "archive")
    convert.run(scans, out)
    assert not (out / f"{scan}.nii.gz").exists()
    assert len(list(out.glob("*.nii.gz"))) == 2
    row = next(row for row in table(out / "inventory.tsv") if row["path"].endswith("FLAIR.nii.gz"))
    assert row["status"] == "quarantined"
    assert row["code"] in {line["code"] for line in table(out / "quarantine.tsv")}


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["suffix=T1w"], {"run-01_T1w", "run-02_T1w"}),
        (["suffix=T1w", "session=1"], {"run-01_T1w"}),
        (["ses=2"], {"run-02_T1w", "FLAIR"}),
        (["run=1,2"], {"run-01_T1w", "run-02_T1w"}),
        (["modality=CT"], {"Mallory/000"}),
    ],
)
def test_filters_choose_scans_by_entity(scans, tmp_path, filters, names):
    out = tmp_path / "out"
    convert.run(scans, out, only=filters)
    rows = [row for row in table(out / "inventory.tsv") if row["status"] in ("volume", "left_out")]
    written = {row["scan_id"] for row in rows if row["status"] == "volume"}
    assert {path.name.removesuffix(".nii.gz") for path in out.glob("*.nii.gz")} == written
    assert len(written) == len(names)
    assert all(any(name in row["path"] for row in rows if row["status"] == "volume") for name in names)


def test_folders_that_do_not_go_together_are_refused_by_name(scans, tmp_path):
    with pytest.raises(ValueError, match="there is no such folder"):
        convert.run(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="lies inside"):
        convert.run(scans, scans / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").touch()
    with pytest.raises(ValueError, match="holds other files"):
        convert.run(scans, tmp_path / "full")
    with pytest.raises(ValueError, match=r"--filter: 'colour=red' is not ENTITY=LABEL; entities are acquisition"):
        convert.run(scans, tmp_path / "out", only=["colour=red"])


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_a_good_series_is_what_dcm2niix_makes_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    save_series(tmp_path / "in/series")
    (tmp_path / "theirs").mkdir()
    subprocess.run(["dcm2niix", "-z", "n", "-o", str(tmp_path / "theirs"), str(tmp_path / "in")], check=True, capture_output=True)
    convert.run(tmp_path / "in", tmp_path / "out")
    (ours,), (theirs,) = (
        (nibabel.load(p) for p in (tmp_path / "out").glob("*.nii.gz")),
        (nibabel.load(p) for p in (tmp_path / "theirs").glob("*.nii")),
    )
    ours, theirs = nibabel.as_closest_canonical(ours), nibabel.as_closest_canonical(theirs)
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
