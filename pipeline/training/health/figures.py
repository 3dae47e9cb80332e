"""Figures that tell learned features from collapsed ones: rank, spread, what lies outside a few directions, entropy of codes.

Rows are samples. All give 0-d tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-7


def spectrum(rows: Tensor) -> Tensor:
    """Squared singular values of (N, D), largest first, on the CPU: eigenvalues of the smaller of the two Gram matrices.

    A GPU takes longer than a CPU for the eigenvalues of so small a matrix, and waits for the host in any case.
    """
    rows = rows.double()
    gram = rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T
    return torch.linalg.eigvalsh(gram.cpu()).flip(0).clamp(min=0)


def rank(spectrum: Tensor) -> Tensor:
    """RankMe (Garrido et al. 2023, equations 1 and 2) of (N, D) rows: exp of the entropy of the singular values over their sum.

    From 1 (all rows are multiples of one) to min(N, D). Compare only runs of one method, and of as many samples.
    """
    values = torch.sqrt(spectrum)
    shares = values / values.sum().clamp(min=EPS) + EPS
    return torch.exp(-(shares * shares.log()).sum())


def outside(spectrum: Tensor, number: int) -> Tensor:
    """Share of the rows' sum of squares outside their first ``number`` principal directions; 0 for rows of zeros."""
    return spectrum[number:].sum() / spectrum.sum().clamp(min=EPS**4)


def spread(rows: Tensor) -> Tensor:
    """Mean over the dimensions of the standard deviation of rows of unit length, times sqrt(D) (SimSiam, Chen and He 2021, section 4.1).

    1 for directions that are evenly spread, 0 where all rows point the same way.
    """
    unit = torch.nn.functional.normalize(rows.float(), dim=1, eps=1e-6)
    return unit.std(0, correction=0).mean() * math.sqrt(rows.shape[1])


def variation(steps: Tensor) -> Tensor:
    """Of (K, R, D), R rows in each of K steps: root of the variance within steps over the mean square.

    Between steps the network learns, which moves a constant answer too: that is no spread.
    """
    steps = steps.float()
    return (deviations(steps).square().mean() / steps.square().mean().clamp(min=EPS**4)).sqrt()


def deviations(steps: Tensor) -> Tensor:
    """(K, R, D) -> (K * R, D): each row less the mean of its step; of the mean of all rows where a step has one."""
    steps = steps.float()
    mean = steps.mean(1, keepdim=True) if steps.shape[1] > 1 else steps.mean((0, 1), keepdim=True)
    return (steps - mean).flatten(0, 1)


def entropy(codes: Tensor) -> Tensor:
    """Mean entropy of (N, K) probabilities as a share of log K: 1 for uniform codes, 0 for certain ones."""
    codes = codes.float()
    return -(codes * codes.clamp(min=1e-12).log()).sum(1).mean() / math.log(codes.shape[1])


def used(chosen: Tensor, number: int) -> Tensor:
    """Prototypes that are the likeliest of at least one of (N,) choices, over how many N even choices among ``number`` would reach."""
    count = torch.bincount(chosen, minlength=number)[:number]
    expected = number * (1.0 - (1.0 - 1.0 / number) ** len(chosen))
    return (count > 0).sum() / expected
