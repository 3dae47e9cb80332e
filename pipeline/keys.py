"""Randomness as a pure function of counter keys (seed, epoch, sample, view): no state, no order, no worker.

A resumed run, another batch size or one more objective draws the same numbers for the same key. The generator is
SplitMix64 (Steele, Lea, Flood 2014) evaluated at a key and a counter, on whatever device the keys lie; dense noise uses a
32-bit finaliser, which costs no more than a library generator.
"""

import hashlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB
_ALL = 0xFFFFFFFFFFFFFFFF


def key(*parts: int | str) -> int:
    """A 63-bit key from numbers and words; equal parts give equal keys on every machine."""
    text = "\x1f".join(f"{type(part).__name__[0]}{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def on_host(tensor: Tensor) -> bool:
    """Whether NumPy can have a tensor without a wait."""
    return tensor.device.type == "cpu"


def fold(keys: Tensor, salt: int | str) -> Tensor:
    """(B,) int64 keys -> (B,) int64 keys of a named purpose."""
    if on_host(keys):
        return torch.from_numpy(_splitmix(keys.numpy() ^ _known(salt)))
    return _splitmix(keys ^ _known(salt))


def bits(keys: Tensor, count: int) -> Tensor:
    """(B,) keys -> (B, count) int64, all 64 bits random."""
    if on_host(keys):
        return torch.from_numpy(_splitmix(keys.numpy()[:, None] + np.arange(1, count + 1) * _GOLDEN))
    counter = torch.arange(1, count + 1, device=keys.device, dtype=torch.int64)
    return _splitmix(keys[:, None] + counter * _GOLDEN)


def uniform(keys: Tensor, *shape: int) -> Tensor:
    """(B,) keys -> (B, *shape) float32 in [0, 1), 24 bits."""
    raw = bits(keys, math.prod(shape)) >> 40 & 0xFFFFFF
    return (raw.to(torch.float32) * (1.0 / 0x1000000)).reshape(len(keys), *shape)


def numbers(seed: int, count: int) -> np.ndarray:
    """(count,) float32: what ``uniform`` gives for this one key, for a host that draws a few: no tensors, a fifteenth of the time."""
    drawn = []
    for counter in range(1, count + 1):
        value = (seed + (counter + 1) * _GOLDEN) & _ALL
        value = (value ^ value >> 30) * _MIX1 & _ALL
        value = (value ^ value >> 27) * _MIX2 & _ALL
        drawn.append(((value ^ value >> 31) >> 40) / 0x1000000)
    return np.array(drawn, np.float32)


def normal(keys: Tensor, *shape: int) -> Tensor:
    """(B,) keys -> (B, *shape) standard normal float32 (Box and Muller)."""
    count = math.prod(shape)
    first, second = uniform(keys, 2, count).unbind(1)
    radius = torch.sqrt(-2.0 * torch.log1p(-first))
    return (radius * torch.cos((2.0 * math.pi) * second)).reshape(len(keys), *shape)


def integers(keys: Tensor, low: Tensor | int, high: Tensor | int, *shape: int) -> Tensor:
    """(B,) keys -> (B, *shape) int64 in [low, high); the bounds broadcast."""
    draw = uniform(keys, *shape).to(torch.float64)
    return torch.floor(draw * (high - low)).to(torch.int64) + low


def noise(keys: Tensor, *shape: int) -> Tensor:
    """(B,) keys -> (B, *shape) float32 in [0, 1), 16 bits deep: cheap enough for every voxel of a crop."""
    if on_host(keys):
        made = torch.empty(len(keys), math.prod(shape))
        fill_noise(made, keys, torch.arange(math.prod(shape), dtype=torch.int32))
        return made.reshape(len(keys), *shape)
    counter = torch.arange(math.prod(shape), device=keys.device, dtype=torch.int32)
    seeds = _splitmix(keys).to(torch.int32)
    mixed = counter[None] * -1640531527 + seeds[:, None]
    mixed ^= mixed >> 16
    mixed *= 2146121005
    mixed ^= mixed >> 15
    mixed *= -2073254261
    return ((mixed >> 15 & 0xFFFF).to(torch.float32) * (1.0 / 0x10000)).reshape(len(keys), *shape)


def fill_noise(made: Tensor, keys: Tensor, counter: Tensor) -> None:
    """Fills (B, N) float32 on a CPU with what ``noise`` gives at the linear indices counter (N,) int32, by NumPy in place."""
    mixed = counter.numpy()[None] * -1640531527 + _splitmix(keys.numpy()).astype(np.int32)[:, None]
    shifted = np.empty_like(mixed)
    for shift, factor in ((16, 2146121005), (15, -2073254261)):
        np.right_shift(mixed, shift, out=shifted)
        mixed ^= shifted
        mixed *= factor
    mixed >>= 15
    mixed &= 0xFFFF
    out = made.numpy()
    out[...] = mixed
    out *= np.float32(1.0 / 0x10000)


def permutation(seed: int, count: int) -> np.ndarray:
    """(count,) a random order of range(count), a pure function of the seed."""
    draw = bits(torch.tensor([seed], dtype=torch.int64), count)[0].numpy()
    return np.argsort(draw, kind="stable")


def initialise(module: torch.nn.Module, seed: int) -> None:
    """Initial weights as a pure function of (seed, name of the layer): adding a head changes no other layer's weights."""
    with torch.random.fork_rng(devices=[]):
        for name, layer in module.named_modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                torch.manual_seed(key(seed, "weights", name))
                reset()


_known = lru_cache(maxsize=1024, typed=True)(key)


def _splitmix(value: Any) -> Any:
    """Of a tensor, or on a CPU of an array: NumPy takes a fraction of PyTorch's time for a few numbers."""
    value = value + _GOLDEN
    value = (value ^ (value >> 30 & 0x3FFFFFFFF)) * _MIX1
    value = (value ^ (value >> 27 & 0x1FFFFFFFFF)) * _MIX2
    return value ^ (value >> 31 & 0x1FFFFFFFF)
