"""What encoder-decoder networks of convolutions share: from a crop to the levels and to the features that are wanted."""

import math

from torch import Tensor

from pipeline.step import Features, Hide, Network, Want


class Pyramid(Network):
    """``mask_token``, ``encoder`` (a stage a level, fine to coarse) and ``geometry`` are a subclass's own, as is ``_decode``."""

    hides = frozenset({"none", "token"})

    def forward(
        self, x: Tensor, hidden: Tensor | None = None, hide: Hide = "none", want: frozenset[Want] = frozenset({"pooled"})
    ) -> Features:
        """x (B, channels, D, H, W); hidden (B, D, H, W) bool, which ``hide`` token replaces by a learned value a channel.

        pooled (B, widths[-1]) float32 is the mean of the coarsest level; levels[l] (B, widths[l], ...) has size ceil(size / 2^l);
        dense (B, widths[0], D, H, W) is the decoder's last. Only what is wanted is computed and given.
        """
        self._check(x, hide)
        if hide == "token":
            x = self.mask_token(x, hidden)
        x, levels = self._begin(x), []
        for stage in self.encoder:
            x = stage(x)
            levels.append(x)
        return Features(
            pooled=x.float().mean((2, 3, 4)) if "pooled" in want else None,
            levels=tuple(levels) if "levels" in want else (),
            dense=self._decode(levels) if "dense" in want else None,
        )

    def _begin(self, x: Tensor) -> Tensor:
        """What comes before the first level."""
        return x

    def _decode(self, levels: list[Tensor]) -> Tensor:
        raise NotImplementedError

    def _check(self, x: Tensor, hide: Hide) -> None:
        name = type(self).__name__.lower()
        if hide not in self.hides:
            raise ValueError(f"{name}: cannot hide voxels by {hide!r}; use a view that hides by one of {', '.join(sorted(self.hides))}")
        stride = self.geometry[-1].stride[0]
        if math.prod([-(-n // stride) for n in x.shape[2:]]) < 2:  # a list: a generator would break a compiled graph
            raise ValueError(
                f"{name}: crops of {tuple(x.shape[2:])} voxels leave one voxel at a stride of {stride}; use larger crops or fewer widths"
            )
