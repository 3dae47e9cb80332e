"""THE definition of axes, orientation and units.

Space: RAS+ millimetres; an index addresses a voxel centre. Arrays are ``(D, H, W)`` where the three axes run towards
Right, Anterior, Superior in this order; tensors are ``(B, C, D, H, W)`` and are never transposed. Units are suffixes:
``_mm``, ``_vox``, ``_hu``, ``_s``; ``num_`` counts. The aliases below are checked by jaxtyping in the tests only.
"""

from jaxtyping import Bool, Float, Int16, Int64
from torch import Tensor

VoxelsBatch = Float[Tensor, "B C D H W"]
StoredBatch = Int16[Tensor, "B C D H W"]
MaskBatch = Bool[Tensor, "B D H W"]
AffineBatch = Float[Tensor, "B 4 4"]
Keys = Int64[Tensor, "B"]
