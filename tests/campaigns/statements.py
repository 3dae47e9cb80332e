"""What the bytes of a file say, by other means than the readers that are tested: ``struct`` for NIfTI, SimpleITK for NRRD and MetaImage,
pydicom's plain data sets for DICOM with decoders of our own (RLE) or SimpleITK's GDCM (JPEG-LS, JPEG 2000)."""

from __future__ import annotations

import gzip
import multiprocessing
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from anatomy.grid import Grid

FORK = multiprocessing.get_context("fork")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8"}
NEAR_MM = 0.11  # within which slices may stray from the regular stack that they are read as
EXPLICIT = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
RLE = "1.2.840.10008.1.2.5"


@dataclass
class Frame:
    """One DICOM image: values (rows, columns), and where its pixels lie: (4, 4) of (column, row) to LPS mm."""

    values: np.ndarray
    affine: np.ndarray


def agrees(kind: str, folder: Path, volume) -> bool:
    """Whether a volume holds what the files say."""
    if kind.startswith("dicom"):
        return _holds_frames(volume, [frame for path in sorted(folder.iterdir()) for frame in frames_of(path)])
    path = next(iter(folder.iterdir()))
    values, affine = nifti(path.read_bytes()) if kind.startswith("nii") else by_itk(path)
    return (
        volume.voxels[0].shape == values.shape
        and np.allclose(volume.voxels[0], values.astype(np.float32), rtol=1e-6, atol=0)
        and float(np.abs(volume.grid.corners_mm() - Grid(values.shape, affine).corners_mm()).max()) <= 0.1
    )


def apart(kind: str, folder: Path, volume: Any) -> bool:
    """``agrees`` in a process of its own: the other readers are no safer than they are."""
    mine, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_say, args=(kind, folder, volume, theirs))
    child.start()
    theirs.close()
    try:
        return bool(mine.poll(30) and mine.recv())
    except EOFError:
        return False
    finally:
        child.kill()
        child.join()


def _say(kind: str, folder: Path, volume: Any, there: Any) -> None:
    try:
        there.send(agrees(kind, folder, volume))
    except Exception:  # whatever another reader raises, it does not confirm
        there.send(False)


def nifti(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(values, affine to RAS+ mm) of a NIfTI-1 file: sform where it is coded, else qform."""
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    order = "<" if data[0] == 0x5C else ">"
    dims = struct.unpack_from(order + "8h", data, 40)
    kind = np.dtype(NIFTI_TYPES[struct.unpack_from(order + "h", data, 70)[0]]).newbyteorder(order)
    pixdim = struct.unpack_from(order + "8f", data, 76)
    offset, slope, inter = struct.unpack_from(order + "3f", data, 108)
    qcode, scode = struct.unpack_from(order + "2h", data, 252)
    count = dims[1] * dims[2] * dims[3]
    values = np.frombuffer(data, kind, count, int(offset)).reshape(dims[1:4], order="F")
    if slope != 0 and np.isfinite(slope):
        values = values.astype(float) * slope + inter
    affine = np.eye(4)
    if scode > 0:
        affine[:3] = np.reshape(struct.unpack_from(order + "12f", data, 280), (3, 4))
    elif qcode > 0:
        from scipy.spatial.transform import Rotation

        b, c, d, *origin = struct.unpack_from(order + "6f", data, 256)
        turn = Rotation.from_quat([b, c, d, max(0.0, 1 - b * b - c * c - d * d) ** 0.5]).as_matrix()
        affine[:3, :3], affine[:3, 3] = turn * (np.array(pixdim[1:4]) * [1, 1, -1 if pixdim[0] < 0 else 1]), origin
    affine[:3] *= {1: 1000.0, 3: 0.001}.get(data[123] & 7, 1.0)
    return values, affine


def by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(values, affine to RAS+ mm) through SimpleITK."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine


def frames_of(path: Path) -> list[Frame]:
    """Every image of a DICOM file; none of one that does not say where it lies."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = pydicom.dcmread(path, force=True)
            pixels = _pixels(ds, path)
        except Exception:  # such a file says nothing
            return []
        if "MOSAIC" in ds.get("ImageType", "") and "PerFrameFunctionalGroupsSequence" not in ds:
            try:
                return _tiles(ds, pixels[0])
            except Exception:
                return []
        found = []
        groups = ds.get("PerFrameFunctionalGroupsSequence") or [None]
        shared = (ds.get("SharedFunctionalGroupsSequence") or [None])[0]
        for own, image in zip(groups, pixels, strict=False):
            try:
                found.append(_frame(ds, own, shared, image))
            except Exception:
                continue
        return found


def _frame(ds, own, shared, image: np.ndarray) -> Frame:
    def value(sequence: str, name: str):
        if own is None:
            return ds.get(name)
        return next((group[sequence][0].get(name) for group in (own, shared) if group is not None and sequence in group), None)

    position = np.array(value("PlanePositionSequence", "ImagePositionPatient"), float)
    turn = np.array(value("PlaneOrientationSequence", "ImageOrientationPatient"), float)
    down, across = (float(step) for step in value("PixelMeasuresSequence", "PixelSpacing"))
    slope, inter = (float(value("PixelValueTransformationSequence", f"Rescale{name}")) for name in ("Slope", "Intercept"))
    affine = np.eye(4)
    if not np.isfinite([*position, *turn, down, across, slope, inter]).all():
        raise ValueError
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = turn[:3] * across, turn[3:] * down, position
    return Frame(image * slope + inter, affine)


def _tiles(ds, image: np.ndarray) -> list[Frame]:
    """The slices of a Siemens mosaic (https://nipy.org/nibabel/dicom/dicom_mosaic.html)."""
    csa = ds[0x0029, 0x1010].value
    (number,), normal = _csa(csa, b"NumberOfImagesInMosaic", 1), np.array(_csa(csa, b"SliceNormalVector", 3))
    number = int(number)
    wide = next(n for n in range(1, 1000) if n * n >= number)
    rows, columns = image.shape[0] // wide, image.shape[1] // wide
    turn, (down, across) = np.array(ds.ImageOrientationPatient, float), (float(step) for step in ds.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = turn[:3] * across, turn[3:] * down, ds.ImagePositionPatient
    corner = affine @ [(wide - 1) * columns / 2, (wide - 1) * rows / 2, 0, 1]
    found, slope, inter = [], float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    for tile in range(number):
        (down_tile, right_tile), own = divmod(tile, wide), affine.copy()
        own[:3, 3] = corner[:3] + normal * tile * float(ds.SpacingBetweenSlices)
        part = image[down_tile * rows : (down_tile + 1) * rows, right_tile * columns : (right_tile + 1) * columns]
        found.append(Frame(part * slope + inter, own))
    return found


def _csa(raw: bytes, name: bytes, count: int) -> list[float]:
    """The first numbers of a tag, wherever in a CSA header (of the form SV10) its name stands."""
    at, found = raw.index(name + b"\0") + 84, []
    for _ in range(count):
        length = struct.unpack_from("<i", raw, at)[0]
        found.append(float(raw[at + 16 : at + 16 + length].rstrip(b"\0 ")))
        at += 16 + (length + 3) // 4 * 4
    return found


def _pixels(ds, path: Path) -> np.ndarray:
    """(frames, rows, columns) stored numbers, as plain as can be."""
    syntax, rows, columns = str(ds.file_meta.TransferSyntaxUID), int(ds.Rows), int(ds.Columns)
    kind = np.dtype(f"<{'i' if ds.PixelRepresentation else 'u'}{ds.BitsAllocated // 8}")
    frames = int(ds.get("NumberOfFrames") or 1)
    if syntax in EXPLICIT:
        stored = np.frombuffer(ds.PixelData, kind, frames * rows * columns).reshape(frames, rows, columns)
    elif syntax == RLE:
        stored = _rle(ds, rows, columns, kind)[None]
    else:
        return _by_gdcm(path, ds)
    shift = ds.BitsAllocated - 1 - ds.get("HighBit", ds.BitsStored - 1)
    wide = np.left_shift(stored, shift) if shift else stored
    return np.right_shift(wide, ds.BitsAllocated - ds.BitsStored).astype(float)


def _rle(ds, rows: int, columns: int, kind: np.dtype) -> np.ndarray:
    """PS3.5 annex G: one segment a byte of a pixel, the highest first."""
    from pydicom.encaps import generate_frames

    data = next(generate_frames(ds.PixelData, number_of_frames=1))
    count, *offsets = struct.unpack_from("<16I", data)
    planes = []
    for begin, end in zip(offsets[:count], [*offsets[1:count], len(data)], strict=True):
        out, at = bytearray(), begin
        while at < end and len(out) < rows * columns:
            length = data[at]
            if length < 128:
                out += data[at + 1 : at + 2 + length]
                at += 2 + length
            elif length > 128:
                out += data[at + 1 : at + 2] * (257 - length)
                at += 2
            else:
                at += 1
        planes.append(np.frombuffer(bytes(out[: rows * columns]), np.uint8))
    return np.stack(planes[::-1], axis=-1).copy().view(kind).reshape(rows, columns)


def _by_gdcm(path: Path, ds) -> np.ndarray:
    """GDCM scales what it decodes; that is undone."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    scaled = sitk.GetArrayFromImage(reader.Execute()).astype(float).reshape(-1, int(ds.Rows), int(ds.Columns))
    return (scaled - float(ds.get("RescaleIntercept", 0))) / float(ds.get("RescaleSlope", 1))


def _holds_frames(volume, frames: list[Frame]) -> bool:
    """Whether each slice of a volume is an image of the files, at its place."""
    to_index = np.linalg.inv(LPS_TO_RAS @ volume.grid.affine)
    found = set()
    for frame in frames:
        rows, columns = frame.values.shape
        if (columns, rows) != volume.grid.shape[:2]:
            continue
        corners = np.array([(x, y, 0, 1) for x in (0, columns - 1) for y in (0, rows - 1)])
        index = (to_index @ frame.affine @ corners.T)[:3].T
        number = round(float(index[:, 2].mean()))
        expected = corners[:, :3] + [0, 0, number]
        near = np.abs((index - expected) * volume.grid.spacing_mm).max() <= NEAR_MM
        if (
            0 <= number < volume.grid.shape[2]
            and near
            and np.allclose(volume.voxels[0, :, :, number].T, frame.values, rtol=1e-6, atol=1e-6)
        ):
            found.add(number)
    return len(found) == volume.grid.shape[2]
