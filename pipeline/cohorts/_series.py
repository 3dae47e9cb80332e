"""A volume as a series of MR Image Storage, one file a slice, with an invented person in it.

Names, ids and dates are invented, so that it can be shown that none of them arrives anywhere. The same volume and seed give the same bytes.
"""

from __future__ import annotations

import io

import numpy as np

from anatomy.grid import Grid

FAMILIES = (
    "Abendroth",
    "Brandvold",
    "Castellane",
    "Dragomirov",
    "Eskelund",
    "Fairweather",
    "Grzelak",
    "Hollingberry",
    "Ivanauskas",
    "Jernigan",
)
GIVEN = ("Adelina", "Benedikt", "Clothilde", "Dagfinn", "Euphemia", "Florian", "Griselda", "Hjalmar", "Isolde", "Joachim")


def invent_person(seed: int, number: int) -> dict[str, str]:
    """Name, id and dates of nobody. Numbers below 100 give different names."""
    rng = np.random.default_rng([seed, number, 0x9E37])
    family, given = FAMILIES[number % len(FAMILIES)], GIVEN[(number // len(FAMILIES) + number) % len(GIVEN)]
    year, month, day = (int(rng.integers(low, high)) for low, high in ((1931, 2004), (1, 13), (1, 29)))
    return {
        "name": f"{family}^{given}",
        "id": f"INV{int(rng.integers(10**6, 10**7))}-{number:02d}",
        "sex": "FM"[int(rng.integers(2))],
        "born": f"{year}{month:02d}{day:02d}",
        "studied": f"{2015 + int(rng.integers(9))}{int(rng.integers(1, 13)):02d}{int(rng.integers(1, 29)):02d}",
        "accession": f"ACC{int(rng.integers(10**7, 10**8))}",
    }


def folder_name(person: dict[str, str]) -> str:
    """``Doe^Jane`` -> ``doe_jane``: people do put names into the names of folders."""
    return person["name"].lower().replace("^", "_")


def pack_series(voxels: np.ndarray, grid: Grid, person: dict[str, str], seed: int) -> dict[str, bytes]:
    """File name -> bytes of each axial slice of int16 voxels (D, H, W) on an axis-aligned RAS+ grid.

    DICOM counts from the patient's right front: rows run to the left and columns to the back, in LPS+ millimetres (PS3.3 C.7.6.2).
    """
    depth = grid.shape[2]
    right, front = grid.world(np.array(grid.shape) - 1)[:2]
    files = {}
    for index in range(depth):
        header = _header(person, seed, index, grid)
        header.ImagePositionPatient = [f"{-right:.10g}", f"{-front:.10g}", f"{grid.world(np.array([0, 0, index]))[2]:.10g}"]
        pixels = np.ascontiguousarray(voxels[::-1, ::-1, index].T).astype("<i2")
        header.PixelData = pixels.tobytes()
        header.SmallestImagePixelValue, header.LargestImagePixelValue = int(pixels.min()), int(pixels.max())
        stream = io.BytesIO()
        header.save_as(stream, enforce_file_format=True)
        files[f"IM{index + 1:04d}.dcm"] = stream.getvalue()
    return files


def _header(person: dict[str, str], seed: int, index: int, grid: Grid) -> object:
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    def uid(*words: object) -> str:
        return generate_uid(entropy_srcs=["vesalius embedded cohort", str(seed), person["id"], *map(str, words)])

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
    meta.MediaStorageSOPInstanceUID, meta.ImplementationClassUID = uid("image", index), generate_uid(entropy_srcs=["vesalius"])
    header = FileDataset(None, Dataset(), file_meta=meta, preamble=b"\0" * 128)
    across, along, between = (f"{step:.10g}" for step in grid.spacing_mm)
    time = f"{8 + seed % 9:02d}{index // 60:02d}{index % 60:02d}"
    values = {
        "SpecificCharacterSet": "ISO_IR 192", "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "SOPClassUID": MRImageStorage, "SOPInstanceUID": uid("image", index), "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series"), "FrameOfReferenceUID": uid("frame"), "PositionReferenceIndicator": "",
        "PatientName": person["name"], "PatientID": person["id"], "PatientBirthDate": person["born"], "PatientSex": person["sex"],
        "StudyDate": person["studied"], "SeriesDate": person["studied"], "AcquisitionDate": person["studied"],
        "ContentDate": person["studied"], "StudyTime": time, "SeriesTime": time, "AcquisitionTime": time, "ContentTime": time,
        "AccessionNumber": person["accession"], "StudyID": "1", "ReferringPhysicianName": "Nobody^Doctor",
        "InstitutionName": "Invented General Hospital", "StudyDescription": f"HEAD {person['name'].partition('^')[0].upper()}",
        "Modality": "MR", "SeriesDescription": "T1", "SeriesNumber": "2", "InstanceNumber": str(index + 1), "AcquisitionNumber": "1",
        "Manufacturer": "Vesalius (synthetic)", "ImageComments": "Synthetic: made from the MNI152 template; the person is invented",
        "PatientPosition": "HFS", "BodyPartExamined": "BRAIN", "BurnedInAnnotation": "NO", "Laterality": "",
        "ScanningSequence": "GR", "SequenceVariant": "SP", "ScanOptions": "", "MRAcquisitionType": "3D",
        "RepetitionTime": "2000", "EchoTime": "3", "EchoTrainLength": "1",
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"], "PixelSpacing": [along, across],
        "SliceThickness": between, "SpacingBetweenSlices": between,
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": grid.shape[1], "Columns": grid.shape[0],
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1,
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(header, keyword, value)
    return header
