"""Files that unpack a thousandfold are refused before they fill the memory."""

import gzip
import multiprocessing
import zlib
from pathlib import Path

import numpy as np
import pytest
from faults.text_files import mha, nrrd
from faults.volume_files import nifti

from pipeline.scans.quarantine import Code, Refused
from pipeline.scans.reading import READERS

BLOCK = 1 << 24
BLOCKS = 80  # 1.3 GB
SIDES = (1024, 1024, 640)  # as many bytes of int16
MOST_MB = 64  # beyond what the process has before it reads


def zeros_gzip() -> bytes:
    return gzip.compress(bytes(BLOCK), 9, mtime=0) * BLOCKS


def zeros_zlib() -> bytes:
    """One stream with its true checksum."""
    engine = zlib.compressobj(9)
    head = engine.compress(bytes(16)) + engine.flush(zlib.Z_FULL_FLUSH)
    block = engine.compress(bytes(BLOCK)) + engine.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    return head + block * BLOCKS + last + (((BLOCK * BLOCKS + 16) % 65521) << 16 | 1).to_bytes(4, "big")


def bomb(name: str) -> tuple[str, bytes]:
    """(kind, bytes); honest ones claim all that they unpack to, the others a small volume."""
    dims = {"dim": [3, *SIDES, 1, 1, 1, 1]}
    sizes = " ".join(map(str, SIDES))
    return {
        "honest nifti": lambda: ("nifti", gzip.compress(nifti(split=True, **dims)[0], mtime=0) + zeros_gzip()),
        "honest nifti of bytes": lambda: (
            "nifti",
            gzip.compress(nifti(split=True, kind="u1", values=np.zeros((10, 9, 8)), dim=[3, 1024, 1024, 1280, 1, 1, 1, 1])[0], mtime=0)
            + zeros_gzip(),
        ),
        "nifti": lambda: ("nifti", gzip.compress(nifti(), mtime=0) + zeros_gzip()),
        "nifti of floats": lambda: ("nifti", gzip.compress(nifti(split=True, kind="f4", values=np.zeros((10, 9, 8)))[0]) + zeros_gzip()),
        "honest nrrd": lambda: ("metaimage", nrrd(encoding="gzip", sizes=sizes, data=lambda _: zeros_gzip())),
        "nrrd": lambda: ("metaimage", nrrd(encoding="gzip", data=lambda data: data + zeros_gzip())),
        "bytes to skip in nrrd": lambda: ("metaimage", nrrd(encoding="gzip", byte_skip=1 << 30, data=lambda _: zeros_gzip())),
        "honest metaimage": lambda: ("metaimage", mha(pack=True, DimSize=sizes, data=lambda _: zeros_zlib())),
        "metaimage": lambda: ("metaimage", mha(pack=True, data=lambda _: zeros_zlib())),
    }[name]()


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def read_in_child(kind: str, path: str, there) -> None:
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mb()
    try:
        READERS[kind]((path,), np.empty, "")
        there.send((None, peak_mb() - before))
    except Refused as refused:
        there.send((refused.code, peak_mb() - before))


@pytest.mark.parametrize(
    "name",
    [
        "honest nifti",
        "honest nifti of bytes",
        "nifti",
        "nifti of floats",
        "honest nrrd",
        "nrrd",
        "bytes to skip in nrrd",
        "honest metaimage",
        "metaimage",
    ],
)
def test_a_bomb_is_refused_in_little_memory(name, tmp_path):
    kind, data = bomb(name)
    (tmp_path / "bomb").write_bytes(data)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=read_in_child, args=(kind, str(tmp_path / "bomb"), there))
    child.start()
    there.close()  # a child that dies without a word ends the wait
    code, grown_mb = here.recv()
    child.join()
    assert code in (Code.TOO_LARGE, Code.BAD_HEADER)
    assert grown_mb < MOST_MB


@pytest.mark.parametrize(
    ("kind", "side", "code"),
    [("u1", 60, None), ("u1", 100, Code.TOO_LARGE), ("i2", 30, None), ("i2", 60, Code.TOO_LARGE)],
)
def test_a_mask_may_shrink_a_thousandfold_up_to_four_times_the_size_of_a_picture(kind, side, code, tmp_path, monkeypatch):
    """The limits made small: 128 kB for pictures, 512 kB for single bytes."""
    monkeypatch.setattr("pipeline.scans.formats.payload.LARGE", 1 << 17)
    monkeypatch.setattr("pipeline.scans.formats.payload.LARGE_MASK", 1 << 19)
    values = np.zeros((side, side, side))
    values[5:9, 5:9, 5:9] = 3
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(gzip.compress(nifti(kind=kind, shape=values.shape, values=values)))
    assert values.size > 250 * path.stat().st_size or side == 30
    if code is None:
        assert (READERS["nifti"]((str(path),), np.empty, "").voxels[0] == values).all()
        return
    with pytest.raises(Refused) as refused:
        READERS["nifti"]((str(path),), np.empty, "")
    assert refused.value.code is code
