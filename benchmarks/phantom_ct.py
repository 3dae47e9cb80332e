"""A CT from formulas, for benchmarks: a trunk with lungs, heart, spine and table in air, band-limited texture, correlated noise of 18 HU.

    .venv/bin/python benchmarks/phantom_ct.py ct.nii.gz [--shape 512 512 200]

Stored as scanners' CT usually is: int16, columns towards Left, rows towards Posterior, 0.78 x 0.78 x 2 mm, gzip. Made slice by slice.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d, zoom

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.keys import key

SPACING_MM = (0.78, 0.78, 2.0)
NOISE_HU = 18.0
TEXTURE_HU = 25.0
# centre and radii, in units of half the field of view (x and y) and of half the length (z); HU; the later ones over the earlier ones
ORGANS = (
    ((0, 0.05, 0), (0.82, 0.6, 3.0), 40.0), ((0, 0.05, 0), (0.76, 0.54, 3.0), 20.0),
    ((-0.36, 0.02, 0.3), (0.3, 0.42, 0.75), -840.0), ((0.36, 0.02, 0.3), (0.3, 0.42, 0.75), -840.0),
    ((0.08, -0.1, 0.2), (0.24, 0.24, 0.4), 45.0), ((-0.32, 0.02, -0.7), (0.36, 0.38, 0.35), 60.0), ((0, 0.42, 0), (0.12, 0.13, 3.0), 320.0),
)  # fmt: skip
TABLE = (0.8, 0.84, 0.9)  # from, to in y, and half its width, in the same units


def slices(shape: tuple[int, int, int] = (512, 512, 200), seed: int = 0) -> Iterator[np.ndarray]:
    """(rows, columns) int16 in HU, from the feet up."""
    columns, rows, count = shape
    rng = np.random.default_rng(key("phantom_ct", seed))
    x, y = np.linspace(-1, 1, columns, dtype=np.float32), np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    texture = zoom(rng.standard_normal((rows // 12 + 1, columns // 12 + 1)).astype(np.float32), 12, order=1)[:rows, :columns]
    texture *= TEXTURE_HU / texture.std()
    bank = [_noise(rng, rows, columns) for _ in range(8)]  # of which each slice takes one, rolled: no two are equal
    for number in range(count):
        z = -1 + 2 * (number + 0.5) / count
        picture = np.full((rows, columns), -1000.0, dtype=np.float32)
        picture[(y > TABLE[0]) & (y < TABLE[1]) & (np.abs(x) < TABLE[2])] = -300.0
        for centre, radii, value in ORGANS:
            depth = 1 - ((z - centre[2]) / radii[2]) ** 2
            if depth > 0:
                picture[((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < depth] = value
        picture += np.where(picture > -950, np.roll(texture, (3 * number, -2 * number), (0, 1)), 0)
        picture += np.roll(bank[number % len(bank)], tuple(rng.integers(0, 4096, 2)), (0, 1))
        yield np.rint(np.clip(picture, -1024, 3071)).astype(np.int16)


def write(path: Path, shape: tuple[int, int, int] = (512, 512, 200), seed: int = 0) -> None:
    """The phantom as ``.nii.gz``, sform and qform alike."""
    import nibabel

    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    affine[:3, 3] = SPACING_MM[0] * shape[0] / 2, SPACING_MM[1] * shape[1] / 2, -300.0
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype("<i2")
    header.set_data_shape(shape)
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1.0, 0.0)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.GzipFile(path, "wb", 6, mtime=0) as stream:
        stream.write(header.binaryblock + bytes(4))
        for picture in slices(shape, seed):
            stream.write(picture.tobytes())


def _noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Correlated over about a pixel, as a reconstruction kernel leaves it."""
    noise = rng.standard_normal((rows, columns)).astype(np.float32)
    for axis in (0, 1):
        noise = gaussian_filter1d(noise, 0.8, axis=axis, mode="wrap")
    return noise * np.float32(NOISE_HU / noise.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 200))
    arguments = parser.parse_args()
    write(arguments.path, tuple(arguments.shape))
    print(f"{arguments.path}: {' x '.join(map(str, arguments.shape))}, {arguments.path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
