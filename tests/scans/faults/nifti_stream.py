"""NIfTI cases: what happens to the bytes of a file on its way (cut, flipped, padded, packed otherwise, not a scan at all)."""

import gzip
import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
from faults.cases import Table
from faults.volume_files import at, holds, nifti, packed, put

STREAM = Table("nifti")
case = STREAM.case
WHOLE = nifti()
PACKED = packed(WHOLE)


def file(name, data, volumes=0, codes="", *, suffix=".nii.gz", **expected):
    """A case of one file."""

    def build(folder: Path) -> None:
        put(folder, f"scan{suffix}", data() if callable(data) else data)

    build.__name__ = f"nifti_{name}"
    case(volumes, codes, **({"check": holds()} if volumes else {}) | expected)(build)


def member(data: bytes, *, name: bytes = b"") -> bytes:
    """A gzip member that carries a file's name."""
    stream = io.BytesIO()
    with gzip.GzipFile(name.decode(), "wb", 6, stream, mtime=0) as out:
        out.write(data)
    return stream.getvalue()


def archive() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as out:
        item = tarfile.TarInfo("scan.nii")
        item.size = len(WHOLE)
        out.addfile(item, io.BytesIO(WHOLE))
    return stream.getvalue()


for share in (1, 50, 99):
    file(f"gz_cut_at_{share}_percent", PACKED[: len(PACKED) * share // 100], 0, "TRUNCATED")
    file(f"raw_cut_at_{share}_percent", WHOLE[: len(WHOLE) * share // 100], 0, "TRUNCATED", suffix=".nii")
file("one_byte_short", WHOLE[:-1], 0, "TRUNCATED", suffix=".nii")
file("one_byte_short_inside_gz", packed(WHOLE[:-1]), 0, "TRUNCATED")
file("trailer_cut", PACKED[:-8], 0, "TRUNCATED")
file("half_the_trailer_cut", PACKED[:-4], 0, "TRUNCATED")
file("crc_flipped", at(PACKED, -6), 0, "CORRUPT")
file("length_flipped", at(PACKED, -1), 0, "CORRUPT")
file("payload_flipped_in_stored_block", at(packed(WHOLE, 0), -700), 0, "CORRUPT")
file("header_flipped_in_stored_block", at(packed(WHOLE, 0), 10 + 5 + 300), 0, "CORRUPT")
file("payload_flipped_in_deflated_block", at(PACKED, len(PACKED) * 3 // 4), 0, "CORRUPT")
file("garbage_behind_gz", PACKED + b"garbage", 0, "CORRUPT")
file("garbage_behind_zeros_behind_gz", PACKED + bytes(100) + b"garbage", 0, "CORRUPT")
file("garbage_behind_raw", WHOLE + b"garbage", 0, "CORRUPT", suffix=".nii")
file("garbage_inside_gz", packed(WHOLE + b"garbage"), 0, "CORRUPT")
file("garbage_in_a_second_member", PACKED + packed(b"garbage"), 0, "CORRUPT")
file("zeros_behind_gz", PACKED + bytes(512), 1)
file("few_zeros_behind_raw", WHOLE + bytes(16), 1, suffix=".nii")
file("few_zeros_inside_gz", packed(WHOLE + bytes(16)), 1)
file("zeros_of_a_whole_slice", WHOLE + bytes(10 * 9 * 2), 0, "TOO_LARGE", suffix=".nii")
file("zeros_of_a_whole_slice_inside_gz", packed(WHOLE + bytes(10 * 9 * 2)), 0, "TOO_LARGE")
file("two_members", packed(WHOLE[:900]) + packed(WHOLE[900:]), 1)
file("members_that_split_the_header", packed(WHOLE[:100]) + packed(WHOLE[100:350]) + packed(WHOLE[350:]), 1)
file("an_empty_member", packed(b"") + PACKED + packed(b""), 1)
file("member_with_a_name", member(WHOLE, name=b"Canary.nii"), 1)
file("second_member_missing", packed(WHOLE[:900]), 0, "TRUNCATED")
file("second_member_flipped", packed(WHOLE[:900]) + at(packed(WHOLE[900:]), -6), 0, "CORRUPT")
file("volume_twice_in_two_members", PACKED + PACKED, 0, "CORRUPT")
file("raw_named_gz", WHOLE, 1)
file("gz_named_nii", PACKED, 1, suffix=".nii")
file("stored_gz", packed(WHOLE, 0), 1)
file("upper_case_name", WHOLE, 1, suffix=".NII")
file("upper_case_gz", PACKED, 1, suffix=".NII.GZ")
file("without_any_name", PACKED, 1, suffix="")
file("nifti_2_without_any_name", nifti(version=2), 1, suffix="")
file("zero_bytes", b"", 0, "EMPTY")
file("header_only", WHOLE[:352], 0, "TRUNCATED", suffix=".nii")
file("header_only_in_gz", packed(WHOLE[:352]), 0, "TRUNCATED")
file("html_page", b"<!DOCTYPE html><html><body>" + b"Login required. " * 40 + b"</body></html>", 0, "BAD_HEADER")
file("short_html_page", b"<html>404</html>", 0, "TRUNCATED")
file("pointer_of_git_lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", 0, "TRUNCATED")
file("archive_named_gz", archive, 0, "BAD_HEADER")
file("packed_twice", packed(PACKED), 0, "BAD_HEADER")
file("zlib_without_gzip", zlib.compress(WHOLE), 0, "BAD_HEADER")
file("ends_in_the_gzip_header", PACKED[:5], 0, "TRUNCATED")
file("text_mode_copy", WHOLE.replace(b"\n", b"\r\n"), 0, "BAD_HEADER", suffix=".nii")


@case(2, check=lambda outcome: sorted(float(volume.voxels[0, 0, 0, 0]) for volume in outcome.volumes) == [1.0, 2.0])
def nifti_beside_one_of_the_same_name(folder):
    """ITK reads x.nii where x.nii.gz was asked for."""
    put(folder, "x.nii", nifti(values=_constant(1)))
    put(folder, "x.nii.gz", packed(nifti(values=_constant(2))))


def _constant(value: float) -> np.ndarray:
    return np.full((10, 9, 8), float(value))
