"""An analytic field in patient space: a reader is right when each voxel holds the field's value where its affine says that it lies."""

import numpy as np

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def field(points: np.ndarray) -> np.ndarray:
    """(..., 3) LPS mm -> values without any symmetry, 7 a millimetre along z; straight along every line parallel to an axis."""
    x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
    return 300 + 3.1 * x - 2.3 * y + 7 * z + 0.02 * x * y


def centres(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(*shape, 3): where an affine puts the voxels of an array."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def expected(volume) -> np.ndarray:
    """The field at the voxels of a volume (RAS+)."""
    return field(centres(LPS_TO_RAS @ volume.grid.affine, volume.grid.shape))


def error(volume, offset: float = 0.0, but_for: int = 0) -> float:
    """The largest difference from the field, but for the worst so many voxels."""
    off = np.abs(volume.voxels[0].astype(float) - expected(volume) - offset).ravel()
    return float(np.sort(off)[off.size - 1 - but_for])


def turned(*degrees: float) -> np.ndarray:
    """A rotation about x, then y, then z."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one = np.eye(3)
        a, b = [other for other in range(3) if other != axis]
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    return turn
