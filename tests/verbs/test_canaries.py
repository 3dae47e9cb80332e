"""Canaries: words of the user's, planted wherever a file can hold one, must not leave the private folder in any coding.

A small cohort of DICOM, NIfTI, NRRD and MetaImage, some of it broken so that error paths run as well, goes through index, preprocess,
split, pretrain, report, mirror and convert; every artefact, and all that is said on the way, is searched.
"""

import base64
import gzip
import json
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from pipeline.files import write_json
from pipeline.folder import StudyFolder
from pipeline.plan import make_plan, plan_json
from pipeline.verbs import convert, index, mirror, preprocess, pretrain, report, split

RECIPE = {
    "network": {"unet": {"widths": [4, 8], "skips": False}}, "crops": {"random": {"size_vox": [16, 16, 16]}},
    "views": {"altered": {"corrupt": {}}}, "objectives": {"restoration": {"view": "altered"}},
    "training": {"steps": 2, "batch": 2, "checkpoint_every": 2, "evaluate_every": 2, "journal_every": 1},
}  # fmt: skip
STUDY = {
    "sources": [{"path": "{data}/scans", "origin": "made by the test", "licence": "none needed", "four_d": "split"}],
    "shards": 1, "split": {"test": 1, "validation": 1}, "preprocess": {"crop_body": False}, "recipes": ["restoration.yaml"],
    "tasks": ["blobs.yaml", "drawn.yaml"],
    "finetune": {"num_labels": [1]},
}  # fmt: skip
DRAWN = {"segments": {"blob": ["*"]}, "kind": {"segmentation": {"classes": {1: "blob"}}}}
TASK = {"labels": "{data}/truths", "kind": {"segmentation": {"classes": {1: "blob"}}}}
TEXTS = (
    "PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientNames", "PatientAddress", "PatientComments", "PatientTelephoneNumbers",
    "Occupation", "EthnicGroup", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "ReferringPhysicianName",
    "PerformingPhysicianName", "OperatorsName", "StudyDescription", "SeriesDescription", "ProtocolName", "AccessionNumber", "StudyID",
    "ImageComments", "AdditionalPatientHistory", "DeviceSerialNumber", "StationName", "RequestedProcedureDescription",
    "CountryOfResidence", "AdmissionID", "PerformedProcedureStepDescription", "SoftwareVersions", "ManufacturerModelName", "SequenceName",
)  # fmt: skip
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "DeviceUID")


class Aviary(dict):
    """Where each canary was planted, by its word. Texts begin alike, and so do UIDs, so that a search for few words finds all."""

    def text(self, where: str) -> str:
        word = f"CNRYQJXW{len(self):03d}"
        self[word] = where
        return word

    def date(self, where: str) -> str:
        word = f"{1700 + len(self)}0217"
        self[word] = where
        self[f"{word[:4]}-02-17"] = where
        return word

    def beginnings(self) -> set[str]:
        return {word if word[:4].isdecimal() else word[:8] if word[0] == "C" else word[:-4] for word in self}

    def uid(self, where: str) -> str:
        word = f"2.25.27182818284590{len(self):04d}"
        self[word] = where
        return word


def volume(number, shape=(24, 22, 20)):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    rng = np.random.default_rng(number)
    blob = np.exp(-3 * ((x - rng.uniform(-0.4, 0.4)) ** 2 + y**2 + (z - rng.uniform(-0.4, 0.4)) ** 2))
    coarse = np.kron(rng.normal(0, 150, [-(-side // 4) for side in shape]), np.ones((4, 4, 4)))  # nobody is a turned copy of another
    own = coarse[tuple(slice(side) for side in shape)]
    return (900 * blob + own + rng.normal(50, 10, shape)).astype(np.int16), (blob > 0.5).astype(np.uint8)


def plant_series(birds: Aviary, folder: Path, number: int, spoil=None):
    """A CT series with a canary in every text, date and UID, private and nested elements, other character sets, and the preamble."""
    folder.mkdir(parents=True)
    common = Dataset()
    common.SpecificCharacterSet = ["ISO_IR 192", "ISO_IR 100"][number % 2]
    for word in TEXTS:
        setattr(common, word, birds.text(f"series {number} {word}"))
    common.PatientName = f"{common.PatientName}^Ñandú^{birds.text('name in another script')}"
    for word in DATES:
        setattr(common, word, birds.date(f"series {number} {word}"))
    for word in UIDS:
        setattr(common, word, birds.uid(f"series {number} {word}"))
    step, inner = Dataset(), Dataset()
    inner.CodeMeaning, inner.LongCodeValue = birds.text("nested twice"), birds.text("nested twice, other VR")
    step.ScheduledProcedureStepDescription, step.ReferencedSOPInstanceUID = birds.text("nested"), birds.uid("nested UID")
    step.ScheduledProtocolCodeSequence = [inner]
    common.RequestAttributesSequence = [step]
    block = common.private_block(0x0009, birds.text("private creator"), create=True)
    block.add_new(1, "LO", birds.text("private LO"))
    block.add_new(2, "UN", birds.text("private UN").encode())
    block.add_new(3, "OB", birds.text("private bytes").encode("utf-16-le"))
    common.add_new(0x60003000, "OW", birds.text("overlay").encode())
    preamble = birds.text("preamble").encode().ljust(128, b"\0")
    voxels = volume(number, (30, 40, 10))[0] + 1024
    for place, pixels in enumerate(voxels.transpose(2, 1, 0)):
        ds = Dataset()
        ds.update(common)
        ds.SOPClassUID, ds.Modality, ds.ImageType = "1.2.840.10008.5.1.4.1.1.2", "CT", ["ORIGINAL", "PRIMARY", "AXIAL", "CNRYQJXWTYPE"]
        ds.SOPInstanceUID += f".{place}"
        ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing = [0, 0, 2.0 * place], [1, 0, 0, 0, 1, 0], [1.5, 1.25]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", *pixels.shape
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept = 15, 0, 1, -1024
        ds.PixelData = pixels.astype(np.uint16).tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID, ds.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.preamble = preamble
        if spoil is not None:
            spoil(ds, place)
        pydicom.dcmwrite(folder / f"{birds.text('file of a series')}.{place}", ds, enforce_file_format=True)
    birds["CNRYQJXWTYPE"] = "ImageType"


def plant_labels(birds: Aviary, folder: Path, broken=False):
    """A segmentation of a series, or a structure set that is of another patient, with canaries in names of structures and in free text."""
    slices = [pydicom.dcmread(path) for path in sorted((path for path in folder.iterdir()), key=lambda path: int(path.suffix[1:]))]
    seg, rtstruct = Dataset(), Dataset()
    for ds, sop_class in ((seg, "1.2.840.10008.5.1.4.1.1.66.4"), (rtstruct, "1.2.840.10008.5.1.4.1.1.481.3")):
        for word in ("PatientID", "IssuerOfPatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
            setattr(ds, word, slices[0][word].value)
        ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = sop_class, birds.uid("UID of labels"), birds.uid("series UID of labels")
        ds.SeriesDescription, ds.ContentCreatorName = birds.text("description of labels"), birds.text("creator of labels")
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID, ds.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, sop_class
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    cited, segment, own, shared = Dataset(), Dataset(), Dataset(), Dataset()
    cited.SeriesInstanceUID = slices[0].SeriesInstanceUID
    segment.SegmentNumber, segment.SegmentLabel = 1, birds.text("segment label")
    segment.SegmentDescription, segment.TrackingID = birds.text("segment description"), birds.text("tracking id")
    seg.SegmentSequence, seg.ReferencedSeriesSequence, seg.SegmentationType = [segment], [cited], "BINARY"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence, own.PlanePositionSequence = [Dataset()], [Dataset()], [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = slices[0].ImageOrientationPatient
    shared.PixelMeasuresSequence[0].PixelSpacing, shared.PixelMeasuresSequence[0].SpacingBetweenSlices = slices[0].PixelSpacing, 2.0
    own.PlanePositionSequence[0].ImagePositionPatient = slices[4].ImagePositionPatient
    own.SegmentIdentificationSequence = [Dataset()]
    own.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1
    seg.SharedFunctionalGroupsSequence, seg.PerFrameFunctionalGroupsSequence, seg.NumberOfFrames = [shared], [own], 1
    seg.Rows, seg.Columns, seg.BitsAllocated, seg.BitsStored, seg.HighBit, seg.PixelRepresentation = (
        slices[0].Rows,
        slices[0].Columns,
        1,
        1,
        0,
        0,
    )
    seg.SamplesPerPixel, seg.PhotometricInterpretation = 1, "MONOCHROME2"
    seg.PixelData = np.packbits(np.arange(seg.Rows * seg.Columns) % 37 < 20, bitorder="little").tobytes()
    seg["PixelData"].VR = "OB"
    roi, drawn, study, frame = Dataset(), Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, roi.ROIDescription = 1, birds.text("name of a region"), birds.text("description of a region")
    roi.ReferencedFrameOfReferenceUID, drawn.ReferencedROINumber, drawn.ContourSequence = slices[0].FrameOfReferenceUID, 1, [Dataset()]
    contour = drawn.ContourSequence[0]
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 3
    contour.ContourData = ["3", "3", "4", "12", "3", "4", "3", "12", "4"]
    study.RTReferencedSeriesSequence, frame.FrameOfReferenceUID = [cited], slices[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence, rtstruct.ReferencedFrameOfReferenceSequence = [study], [frame]
    rtstruct.StructureSetLabel, rtstruct.PatientID = birds.text("label of a structure set"), birds.text("another patient")
    rtstruct.StructureSetROISequence, rtstruct.ROIContourSequence = [roi], [drawn]
    pydicom.dcmwrite(folder.parent / f"{birds.text('file of labels')}.dcm", rtstruct if broken else seg, enforce_file_format=True)


def plant_nifti(birds: Aviary, path: Path, voxels):
    image = nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 2.0, 1]))
    for key in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[key] = birds.text(f"NIfTI {key}")
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, birds.text("NIfTI extension").encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream, gzip.GzipFile(birds.text("name in the gzip header"), "wb", fileobj=stream) as packed:
        packed.write(image.to_bytes())


def plant_files(birds: Aviary, data: Path):
    """NIfTI with labels and sidecars, in folders and under names that say too much; NRRD and MetaImage with keys of their own."""
    for number in range(3):
        name = birds.text("name of a NIfTI file")
        voxels, labels = volume(10 + number)
        plant_nifti(birds, data / "scans" / birds.text("folder") / f"{name}.nii.gz", voxels)
        plant_nifti(birds, data / "truths" / f"{name}.nii.gz", labels)
        (data / "scans" / f"{name}.json").write_text(json.dumps({birds.text("key of a sidecar"): birds.text("value of a sidecar")}))
    plant_nifti(birds, data / "scans" / "4d" / f"{birds.text('name of a 4-D file')}.nii.gz", np.stack([volume(n)[0] for n in (20, 21)], -1))
    plant_nifti(birds, data / "truths" / f"{birds.text('labels of nobody')}.nii.gz", labels)
    (data / "scans" / "participants.tsv").write_text(f"participant_id\tname\nsub-1\t{birds.text('participants')}\n")
    plain = volume(30)[0].transpose(2, 1, 0)
    space = "NRRD0005\ntype: int16\ndimension: 3\nspace: left-posterior-superior\nsizes: 24 22 20\n"
    space += "space directions: (1.5,0,0) (0,1.5,0) (0,0,2)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
    space += f"space origin: (0,0,0)\ncontent: {birds.text('NRRD content')}\n# {birds.text('NRRD comment')}\n"
    space += f"{birds.text('NRRD key')}:={birds.text('NRRD value')}\n\n"
    (data / "scans" / f"{birds.text('NRRD name')}.nrrd").write_bytes(space.encode() + plain.tobytes())
    head = f"ObjectType = Image\nNDims = 3\nComment = {birds.text('MHA comment')}\nName = {birds.text('MHA name')}\n"
    head += "BinaryData = True\nBinaryDataByteOrderMSB = False\nElementSpacing = 1.5 1.5 2\nDimSize = 24 22 20\n"
    head += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (data / "scans" / f"{birds.text('MHA file')}.mha").write_bytes(head.encode() + plain[::-1].tobytes())


def plant_broken(birds: Aviary, data: Path):
    """What is refused, at every stage that refuses."""

    def hole(ds, place):
        ds.ImagePositionPatient[2] += 2.0 * (place > 4)

    def undecodable(ds, place):
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
        ds.PixelData = pydicom.encaps.encapsulate([birds.text("pixel data that is none").encode()])
        ds["PixelData"].is_undefined_length = True

    plant_series(birds, data / "scans" / birds.text("folder of a series with a hole"), 3, hole)
    plant_series(birds, data / "scans" / birds.text("folder of a series that cannot be decoded"), 4, undecodable)
    whole = next((data / "scans").glob("*/*.nii.gz")).read_bytes()
    (data / "scans" / f"{birds.text('cut NIfTI')}.nii.gz").write_bytes(whole[:-300])
    (data / "scans" / f"{birds.text('cut header')}.nii.gz").write_bytes(whole[:60])
    (data / "scans" / birds.text("link")).symlink_to("/etc/hostname")
    (data / "scans" / f"{birds.text('text')}.dcm").write_text(birds.text("no DICOM") * 40)
    (data / "scans" / f"{birds.text('empty')}.nii").touch()
    described = data / "scans" / birds.text("described")
    described.mkdir()
    name, channel = birds.text("missing file"), birds.text("channel")
    value = {"channel_names": {"0": channel}, "labels": {birds.text("label"): 1}, "dataset": {"x": {"images": [f"{name}.nii.gz"]}}}
    (described / "dataset.json").write_text(json.dumps(value))
    (described / "pretrain_data.json").write_text('{"' + birds.text("broken JSON"))


def codings(word: str) -> set[bytes]:
    """Plain, UTF-16, hexadecimal, and base64 wherever in a longer text the word begins."""
    found = {word.encode(), word.encode("utf-16-le"), word.encode("utf-16-be")}
    found |= {word.encode().hex().encode(), word.encode().hex().upper().encode()}
    for lead in range(3):
        padded = b"\0" * lead + word.encode()
        padded = padded[: len(padded) // 3 * 3]
        found.add(base64.b64encode(padded)[4 if lead else 0 :])
    return found


def contents(path: Path) -> bytes:
    """The bytes of an artefact, and what is packed in them."""
    raw = path.read_bytes()
    if path.suffix == ".parquet":
        return raw + pd.read_parquet(path).to_csv().encode()
    if path.suffix == ".gz":
        return raw + gzip.decompress(raw)
    if path.suffix == ".b2nd":
        return raw + blosc2.open(str(path))[:].tobytes()
    return raw


def search(birds: Aviary, artefacts: dict[str, bytes]) -> list[tuple[str, str]]:
    """(canary, artefact) of every hit; of a text or a UID its beginning."""
    wanted = [(coded, word) for word in sorted(birds.beginnings()) for coded in codings(word)]
    return [(word, where) for where, data in artefacts.items() for coded, word in wanted if coded in data]


def run_all(where: StudyFolder, data: Path, out: Path) -> None:
    index.run(where.root)
    preprocess.run(where.root, "00")
    split.run(where.root)
    plan = json.loads(where.plan.read_text())
    pretrain.run(where.root, plan["runs"][0]["run"])
    report.run(where.root)
    mirror.run(where.root)
    convert.run(data / "scans", out, four_d="split")


def test_no_canary_leaves_the_private_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("VESALIUS_PRIVATE", str(tmp_path / "private"))
    birds, data, out = Aviary(), tmp_path / "data", tmp_path / "converted"
    plant_series(birds, data / "scans" / birds.text("folder of a series"), 1)
    plant_series(birds, data / "scans" / birds.text("folder of another series"), 2)
    plant_series(birds, data / "scans" / birds.text("folder of a third series"), 5)
    series = sorted((data / "scans").iterdir())
    plant_files(birds, data)
    plant_broken(birds, data)
    for folder in series:
        plant_labels(birds, folder)
    plant_labels(birds, series[0], broken=True)
    for name, value in {"restoration": RECIPE, "blobs": TASK, "drawn": DRAWN, "tiny": STUDY}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(value))
    plan = make_plan(tmp_path / "tiny.yaml", str(data), str(tmp_path / "results"))
    where = StudyFolder(Path(plan.results))
    write_json(where.plan, plan_json(plan))
    run_all(where, data, out)
    said = "".join(capfd.readouterr()).encode()

    refused = set(pd.read_csv(where.quarantine, sep="\t")["code"])
    assert {
        "MISSING_SLICE",
        "DECODER",
        "TRUNCATED",
        "LINK",
        "CORRUPT",
        "EMPTY",
        "DATASET_JSON",
        "LABELS_WITHOUT_IMAGE",
        "LABELS_PATIENT",
    } <= refused
    manifest = pd.read_parquet(where.manifest)
    assert len(manifest) == 10
    assert sum('"drawn": [0, 1]' in labels for labels in manifest["labels"]) == 3
    assert (where.root / "mlflow.db").stat().st_size > 0

    assert len(set(birds.values())) >= 120
    files = [path for folder in (where.root, out) for path in folder.rglob("*") if path.is_file()]
    private = [path for path in (tmp_path / "private").rglob("*") if path.is_file()] + [out / "inventory.tsv"]
    artefacts = {str(path.relative_to(tmp_path)): contents(path) for path in files if path not in private} | {"what was said": said}
    assert search(birds, artefacts) == []
    names = {str(path): str(path.relative_to(tmp_path)).encode() for path in files}
    assert search(birds, names) == []

    assert all(path.stat().st_mode & 0o777 == 0o600 for path in private), "only their owner may read them"
    kept = b"".join(path.read_bytes() for path in private)
    assert search(birds, {"private": kept})
    assert sum(word.encode() in kept for word in birds) > 30, "the search finds what is there: names lead back"


@pytest.mark.parametrize("coded", ["plain", "utf-16-le", "hex", "base64", "base64 in a text"])
def test_the_search_finds_every_coding(coded):
    word = "CNRYQJXW007"
    text = {
        "plain": word.encode(), "utf-16-le": f"ab{word}".encode("utf-16-le"), "hex": f"x{word}".encode().hex().encode(),
        "base64": base64.b64encode(word.encode()), "base64 in a text": base64.b64encode(f"ab {word} and more".encode()),
    }[coded]  # fmt: skip
    assert any(pattern in text for pattern in codings(word))
