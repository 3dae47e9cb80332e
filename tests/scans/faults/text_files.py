"""NRRD and MetaImage files of the analytic field, line by line, so that a case can spoil any of them."""

import bz2
import zlib
from pathlib import Path

import numpy as np
from faults.phantom import LPS_TO_RAS
from faults.volume_files import OBLIQUE, SHAPE, holds, packed, put, raw_of, values_of

NRRD_TYPES = {
    "i1": "int8",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "i8": "int64",
    "f4": "float",
    "f8": "double",
}
META_TYPES = {
    "i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT", "i8": "LONG_LONG", "f4": "FLOAT", "f8": "DOUBLE",
}  # fmt: skip
TO_RAS = {"right-anterior-superior": (1, 1), "left-anterior-superior": (-1, 1), "left-posterior-superior": (-1, -1)}
ENCODERS = {"raw": bytes, "gzip": packed, "bzip2": bz2.compress}


def words(numbers) -> str:
    return " ".join(f"{number:.12g}" for number in np.ravel(numbers))


def nrrd(
    affine=OBLIQUE, shape=SHAPE, kind="i2", order="<", encoding="raw", space="left-posterior-superior", values=None, data=None,
    scale=1.0, lines=(), magic="NRRD0004", split=False, **fields,
):  # fmt: skip
    """The bytes of an NRRD file. ``fields`` replace those of the header ("_" for a blank), None takes one out; ``lines`` come behind them.
    ``data``: what is done to the encoded voxels; ``scale``: units of the space a millimetre; ``split``: (header, voxels)."""
    own = np.diag([*TO_RAS.get(space, (1, 1)), 1.0, 1.0]) @ affine * scale
    vectors = [f"({','.join(f'{number:.12g}' for number in column)})" for column in own[:3].T]
    header = {
        "type": NRRD_TYPES[kind], "dimension": 3, "space": space, "sizes": words(shape), "space directions": " ".join(vectors[:3]),
        "kinds": "domain domain domain", "endian": {"<": "little", ">": "big"}[order], "encoding": encoding, "space origin": vectors[3],
    }  # fmt: skip
    header |= {name.replace("_", " "): value for name, value in fields.items()}
    text = [magic, "# made by a test", *(f"{name}: {value}" for name, value in header.items() if value is not None), *lines, "", ""]
    voxels = ENCODERS.get(encoding, bytes)(raw_of(values_of(affine, shape) if values is None else values, kind, order))
    parts = "\n".join(text).encode("latin-1"), (data or bytes)(voxels)
    return parts if split else b"".join(parts)


def mha(
    affine=OBLIQUE, shape=SHAPE, kind="i2", order="<", pack=False, values=None, data=None, file="LOCAL", scale=1.0, lines=(), split=False,
    **fields,
):  # fmt: skip
    """The bytes of a MetaImage file; ``fields``, ``lines``, ``data``, ``scale`` and ``split`` as in ``nrrd``."""
    own = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(own[:3, :3], axis=0)
    voxels = raw_of(values_of(affine, shape) if values is None else values, kind, order)
    voxels = (data or bytes)(zlib.compress(voxels) if pack else voxels)
    header = {
        "ObjectType": "Image", "NDims": 3, "BinaryData": True, "BinaryDataByteOrderMSB": order == ">", "CompressedData": pack,
        "CompressedDataSize": len(voxels) if pack else None, "TransformMatrix": words((own[:3, :3] / spacing).T),
        "Offset": words(own[:3, 3] * scale), "CenterOfRotation": "0 0 0", "AnatomicalOrientation": None,
        "ElementSpacing": words(spacing * scale), "DimSize": words(shape), "ElementType": f"MET_{META_TYPES[kind]}",
    }  # fmt: skip
    header |= fields
    text = [*(f"{name} = {value}" for name, value in header.items() if value is not None), *lines, f"ElementDataFile = {file}", ""]
    parts = "\n".join(text).encode("latin-1"), voxels
    return parts if split else b"".join(parts)


def file_case(case, write, kind: str, suffix: str):
    """Of one format: what makes a case of a file with its voxels behind the header; ``write`` gives its bytes."""

    def file(name, volumes=0, codes="", *, check=None, whole=None, suffix=suffix, **options):
        def build(folder: Path) -> None:
            put(folder, f"scan{suffix}", whole if whole is not None else write(**options))

        build.__name__ = f"{kind}_{name}"
        case(volumes, codes, check=(check or holds(options.get("affine", OBLIQUE), kind=np.int16)) if volumes else None)(build)

    return file


def exact(values, kind=None, tolerance=0.0):
    return holds(values=values, kind=kind, tolerance=tolerance)


def spoiled(value) -> np.ndarray:
    """The field with another value in one voxel of a hundred."""
    found = values_of()
    found.flat[::100] = value
    return found


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]
