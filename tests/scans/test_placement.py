"""NIfTI files whose header places the voxels in two ways: refused, unless the source names the form that counts."""

import json

import nibabel as nib
import numpy as np
import pytest

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.plan import make_plan, plan_json
from pipeline.scans.identity import Identity
from pipeline.scans.inventory import Place, take_stock
from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.reading import read_scan
from pipeline.verbs import convert, index, preprocess
from pipeline.verbs.index import places_of
from pipeline.volumes.store import Store

IDENTITY = Identity(bytes(32))
SFORM = np.array([[1.0, 0, 0, -20], [0, 1.5, 0, -9], [0, 0, 2.0, 4], [0, 0, 0, 1]])
QFORM = np.array([[-1.0, 0, 0, 20], [0, 1.5, 0, -9], [0, 0, 2.0, 4], [0, 0, 0, 1]])  # left and right exchanged
VALUES = np.random.default_rng(3).integers(-900, 900, (24, 22, 20)).astype(np.int16)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    return tmp_path


def save(path, values=VALUES, sform=SFORM, qform=QFORM, codes=(1, 1)):
    image = nib.Nifti1Image(values, SFORM)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nib.save(image, path)


def stock(folder, placement, four_d="refuse"):
    return take_stock([Place(folder, "scans", "MR", placement=placement, four_d=four_d)], IDENTITY)


def test_forms_that_disagree_are_refused_unless_one_is_named(tmp_path):
    save(tmp_path / "a.nii.gz")
    found = stock(tmp_path, "")
    assert found.files[0].code is Code.ORIENTATION_CONFLICT
    with pytest.raises(Refused):
        read_scan("nifti", [tmp_path / "a.nii.gz"])


@pytest.mark.parametrize(("placement", "affine"), [("sform", SFORM), ("qform", QFORM)])
def test_the_form_that_is_named_places_the_voxels(tmp_path, placement, affine):
    save(tmp_path / "a.nii.gz")
    (scan,) = stock(tmp_path, placement).scans
    volume = read_scan(scan.kind, scan.paths)
    np.testing.assert_allclose(volume.grid.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(volume.voxels[0], VALUES)


@pytest.mark.parametrize("placement", ["sform", "qform"])
@pytest.mark.parametrize(("codes", "affine"), [((1, 0), SFORM), ((0, 1), QFORM)])
def test_a_form_that_is_not_coded_never_counts(tmp_path, placement, codes, affine):
    save(tmp_path / "a.nii", codes=codes)
    (scan,) = stock(tmp_path, placement).scans
    np.testing.assert_allclose(read_scan(scan.kind, scan.paths).grid.affine, affine, atol=1e-5)


def test_without_any_form_a_name_helps_nothing(tmp_path):
    save(tmp_path / "a.nii", codes=(0, 0))
    assert stock(tmp_path, "qform").files[0].code is Code.ORIENTATION


def test_the_name_goes_with_each_volume_of_a_4d_file(tmp_path):
    save(tmp_path / "a.nii.gz", np.stack([VALUES, VALUES + 1], axis=-1))
    scans = stock(tmp_path, "qform", "split").scans
    assert [scan.kind for scan in scans] == ["nifti:qform-0", "nifti:qform-1"]
    for number, scan in enumerate(scans):
        volume = read_scan(scan.kind, scan.paths)
        np.testing.assert_array_equal(volume.voxels[0], VALUES + number)
        np.testing.assert_allclose(volume.grid.affine, QFORM, atol=1e-5)


@pytest.mark.parametrize("kind", ["nifti:zform", "nifti:qform-", "nifti:qform3", "metaimage:qform", "dicom:sform"])
def test_kinds_that_no_index_writes_are_refused(kind, tmp_path):
    save(tmp_path / "a.nii")
    with pytest.raises(ValueError, match="kind"):
        read_scan(kind, [tmp_path / "a.nii"])


def test_the_study_names_the_form(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "study.yaml").write_text(
        "sources: [{path: '{data}', modality: MR, placement: qform}]\nsplit: {test: 1, validation: 1}\n", encoding="utf-8"
    )
    plan = make_plan(tmp_path / "study.yaml", str(tmp_path / "data"), str(tmp_path / "results"))
    assert [place.placement for place in places_of(plan)] == ["qform"]


def picture():
    """Something that is worth storing."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in VALUES.shape], indexing="ij")
    return (900 * np.exp(-2 * (x**2 + y**2 + z**2)) + VALUES / 100).astype(np.int16)


def labelled(root, image, mask, source=None, task=None):
    """A study of one image and its labels, each with a (sform, qform), through `index` and `preprocess`: the store, codes of refusals."""
    for folder, values, (sform, qform) in (("images", picture(), image), ("labels", (picture() > 400).astype(np.uint8), mask)):
        (root / folder).mkdir(exist_ok=True)
        save(root / folder / "a.nii.gz", values, sform, qform)
    described = {"labels": "{data}/labels", "kind": {"segmentation": {"classes": {1: "blob"}}}} | ({"placement": task} if task else {})
    images = {"path": "{data}/images", "modality": "MR"} | ({"placement": source} if source else {})
    study = {"sources": [images], "split": {"test": 1, "validation": 1}, "shards": 1, "tasks": ["blob.yaml"]}
    (root / "blob.yaml").write_text(json.dumps(described))
    (root / "study.yaml").write_text(json.dumps(study | {"preprocess": {"crop_body": False}}))
    plan = make_plan(root / "study.yaml", str(root), str(root / "results"))
    where = StudyFolder(root / "results" / "study")
    write_json(where.plan, plan_json(plan))
    index.run(where.root)
    preprocess.run(where.root, "00")
    rows = where.shard_refused("00").read_text().splitlines()[1:]
    return Store(where.store), [row.split("\t")[3] for row in rows]


BOTH, ALIKE = (SFORM, QFORM), (SFORM, SFORM)


@pytest.mark.parametrize(
    ("image", "mask", "source", "task", "code"),
    [
        (BOTH, BOTH, "sform", None, ""),  # what counts of the image counts of its labels
        (BOTH, BOTH, "qform", None, ""),
        (BOTH, ALIKE, "sform", None, ""),
        (BOTH, ALIKE, "qform", None, "LABELS_OFF_GRID"),
        (ALIKE, BOTH, None, None, "ORIENTATION_CONFLICT"),
        (ALIKE, BOTH, None, "sform", ""),  # as the task says
        (ALIKE, BOTH, None, "qform", "LABELS_OFF_GRID"),
        (BOTH, (QFORM, SFORM), "sform", "qform", ""),  # the task says otherwise than the source
        (BOTH, (QFORM, SFORM), "sform", None, "LABELS_OFF_GRID"),
    ],
)
def test_labels_are_placed_as_their_task_says_or_as_their_image_is(root, image, mask, source, task, code):
    store, codes = labelled(root, image, mask, source, task)
    assert codes == ([code] if code else [])
    (scan,) = store
    assert store.tasks(scan) == (() if code else ("blob",))
    if not code:
        placed = np.reshape(store.meta(scan)["affine"], (4, 4))
        expected = picture() if placed[0, 3] == SFORM[0, 3] else picture()[::-1]
        np.testing.assert_array_equal(store.labels(scan, "blob"), expected > 400)


def test_another_form_reads_image_and_labels_again(root):
    affines = []
    for source, task in (("sform", None), ("qform", None), ("qform", "sform")):
        store, codes = labelled(root, BOTH, BOTH, source, task)
        (scan,) = store
        affines.append(store.meta(scan)["affine"][3])
    assert affines[0] != affines[1] == affines[2]
    assert codes == ["LABELS_OFF_GRID"], "labels that were stored by another form do not stay"


def test_convert_takes_the_form_that_it_is_told(root):
    (root / "in").mkdir()
    save(root / "in" / "a.nii.gz")
    convert.run(root / "in", root / "out")
    assert not list((root / "out").glob("*.nii.gz"))
    for placement, affine in (("sform", SFORM), ("qform", QFORM), ("sform", SFORM)):
        convert.run(root / "in", root / "out", placement=placement)
        (path,) = (root / "out").glob("*.nii.gz")
        np.testing.assert_allclose(nib.load(path).affine, affine, atol=1e-5)
        before = path.stat().st_mtime_ns
        convert.run(root / "in", root / "out", placement=placement)
        assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="--placement: 'zform' is none of sform, qform"):
        convert.run(root / "in", root / "out", placement="zform")
