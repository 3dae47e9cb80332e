"""Mosaics beside nibabel's reader of them, on our cases and on the scanner's files that nibabel ships; the CSA header under damage."""

import gzip
import warnings
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults.cases import cases
from faults.dicom_mosaic import csa_header, csa_of, make_mosaic
from faults.outcome import read_folder
from faults.series import save
from nibabel.nicom import csareader, dicomwrappers
from test_dcm2niix import converted, is_equal

from anatomy.grid import Grid
from pipeline.scans.dicom.csa import read_csa
from pipeline.scans.identity import Identity
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.quarantine import Code, Refused
from pipeline.volumes.volume import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHIPPED = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
SCANNED = ("siemens_dwi_0.dcm.gz", "siemens_dwi_1000.dcm.gz")
# nibabel reads no compressed pixels, no distance of slices in the CSA header, and stumbles over the older form of it
NOT_BY_NIBABEL = ("mosaic jpeg ls", "mosaic rle", "mosaic with the distance in", "mosaic older header")
VALID = {name: case for name, case in cases("dicom").items() if case.volumes == 1 and name.startswith("mosaic") and not case.codes}


def by_nibabel(path: Path) -> Volume:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = dicomwrappers.wrapper_from_file(path)
        assert isinstance(wrapped, dicomwrappers.MosaicWrapper)
        values = np.asarray(wrapped.get_data())
    return Volume(values[None], Grid(values.shape, LPS_TO_RAS @ wrapped.affine)).canonical()


@pytest.mark.parametrize("name", [name for name in VALID if not name.startswith(NOT_BY_NIBABEL)])
def test_a_mosaic_is_what_nibabel_makes_of_it(name, tmp_path):
    VALID[name].build(tmp_path)
    (ours,) = read_folder(tmp_path).volumes
    assert is_equal(ours.canonical(), by_nibabel(next(tmp_path.iterdir())))


@pytest.fixture
def scanned(tmp_path) -> Path:
    """Two volumes of a diffusion series, their pixels blanked but for a few places, as nibabel ships them."""
    if not all((SHIPPED / name).exists() for name in SCANNED):
        pytest.skip("nibabel is installed without its test data")
    (tmp_path / "in").mkdir()
    for name in SCANNED:
        (tmp_path / "in" / name.removesuffix(".gz")).write_bytes(gzip.decompress((SHIPPED / name).read_bytes()))
    return tmp_path / "in"


def test_mosaics_from_a_scanner_are_what_nibabel_and_dcm2niix_make_of_them(scanned, tmp_path):
    ours = [volume.canonical() for volume in read_folder(scanned).volumes]
    assert [volume.grid.shape for volume in ours] == [(128, 128, 48)] * 2
    np.testing.assert_allclose(ours[0].grid.spacing_mm, (1.796875, 1.796875, 3.0), atol=1e-5)
    theirs = converted(scanned, tmp_path / "out")
    # nibabel takes the column's direction as it is rounded in the file, which over 690 mm makes 0.3 micrometres
    nearly = [by_nibabel(path) for path in sorted(scanned.iterdir())]
    for volume in ours:
        assert any(is_equal(volume, other) for other in theirs)
        assert any(is_equal(volume, other, place_mm=5e-4) for other in nearly)


def test_each_mosaic_is_a_scan_of_one_exam(tmp_path):
    for number in range(3):
        save([make_mosaic(time=number, offset=50.0 * number)], tmp_path, "abc"[number])
    found = take_stock([Place(tmp_path, "scans")], Identity(bytes(32)))
    assert [file.status for file in found.files] == ["volume"] * 3
    assert len({scan.scan_id for scan in found.scans}) == 3
    assert len({scan.exam_id for scan in found.scans}) == 1
    assert {scan.shape for scan in found.scans} == {(10, 12, 7)}
    assert all(scan.spacing_mm == pytest.approx((1.25, 1.5, 2.5)) for scan in found.scans)


@pytest.mark.parametrize("form", ["SV10", "plain", "counted"])
def test_a_csa_header_is_read_whole_or_refused_wherever_it_is_cut(form):
    raw = csa_header({"One": ("US", [7]), "Two": ("FD", [0.5, -1.0, 2.25]), "Three": ("LO", []), "Four": ("SH", ["a b", "c"])}, form)
    assert read_csa(raw) == {"One": ("7",), "Two": ("0.50000000", "-1.00000000", "2.25000000"), "Three": (), "Four": ("a b", "c")}
    for length in range(len(raw) - 4):  # behind its tags stand four zeros
        with pytest.raises(Refused) as refused:
            read_csa(raw[:length])
        assert refused.value.code is Code.MOSAIC


def test_csa_headers_of_scanners_are_read_as_nibabel_reads_them(scanned):
    import pydicom

    headers = [csa_of(pydicom.dcmread(path)) for path in sorted(scanned.iterdir())]
    headers += [(SHIPPED / name).read_bytes() for name in ("csa2_b0.bin", "csa2_b1000.bin")]
    for raw in headers:
        ours, theirs = read_csa(raw), csareader.read(raw)["tags"]
        assert set(ours) == set(theirs)
        for name in ("NumberOfImagesInMosaic", "SliceNormalVector", "MosaicRefAcqTimes", "B_value"):
            assert [float(text) for text in ours[name]] == theirs[name]["items"]


def test_a_damaged_csa_header_raises_nothing_but_its_reason():
    raw, draw, codes = csa_of(make_mosaic()), np.random.default_rng(0), Counter()
    for _ in range(2000):
        damaged = bytearray(raw)
        for place in draw.integers(0, len(raw), 3):
            damaged[place] = draw.integers(256)
        try:
            codes["read" if read_csa(bytes(damaged)) else "empty"] += 1
        except Refused as refused:
            codes[refused.code] += 1
    assert set(codes) == {"read", Code.MOSAIC}
    with pytest.raises(Refused):
        read_csa(raw + bytes(1 << 23))
