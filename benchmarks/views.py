"""How fast the views are on one CPU thread, beside the published procedures restated in numpy.

The restatements follow the formulas of Models Genesis (Zhou et al. 2019) and TransVW (Haghighi et al. 2021), one crop at a time. Equal
statistics are printed beside the times: share of voxels changed, their mean change, and the mean displacement.

    OMP_NUM_THREADS=1 python benchmarks/views.py
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline import plugins
from pipeline.keys import fold
from pipeline.step import Context, Ids, Places, Region

SIZES = (((32, 48, 32), 8), ((64, 64, 32), 8), ((96, 96, 96), 1))
MARGIN_VOX = 14
ONE_OF = {"one_of": True, "non_linear": 0.25, "shuffle": 0.25, "in_painting": 0.25, "out_painting": 0.25}
WARP = {"elastic": 1.0, "elastic_axes": 2, "elastic_target": False, "elastic_smooth_mm": 8.0, "elastic_margin_vox": 14}
FIVE_BLOCKS = {"shuffle_share": 0.001, "in_painting_boxes": 1, "out_painting_windows": 1, "one_more": 1.0}


# The published procedures, restated.


def bezier_map(crop: np.ndarray, rng: np.random.Generator, may_fall: float = 0.5) -> np.ndarray:
    """Cubic Bezier through (0, 0) and (1, 1), 100,000 points, linear interpolation between them."""
    t = np.linspace(0.0, 1.0, 100_000)
    (x1, y1), (x2, y2) = rng.random((2, 2))
    first, second = 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2
    x, y = first * x1 + second * x2 + t**3, first * y1 + second * y2 + t**3
    return np.interp(crop, x, y[::-1] if rng.random() < may_fall else y)


def shuffle_boxes(crop: np.ndarray, rng: np.random.Generator, number: int) -> np.ndarray:
    """Each box's voxels in a random order, one box after the other; all boxes are drawn in one call, which is quicker."""
    shuffled = crop.copy()
    sides = rng.integers(1, [max(n // 10, 1) + 1 for n in crop.shape], (number, 3))
    lows = rng.integers(0, crop.shape - sides)
    for (a, b, c), (i, j, k) in zip(sides.tolist(), lows.tolist(), strict=True):
        voxels = crop[i : i + a, j : j + b, k : k + c].flatten()
        rng.shuffle(voxels)
        shuffled[i : i + a, j : j + b, k : k + c] = voxels.reshape(a, b, c)
    return shuffled


def random_box(shape: tuple[int, ...], rng: np.random.Generator, low: float, high: float) -> tuple[slice, ...]:
    """Sides between two shares of the crop's, three voxels off the border."""
    sides = [rng.integers(int(n * low), int(n * high) + 1) for n in shape]
    return tuple(slice(first := rng.integers(3, n - s - 2), first + s) for n, s in zip(shape, sides, strict=True))


def paint_inside(crop: np.ndarray, rng: np.random.Generator, most: int, more: float) -> np.ndarray:
    painted = crop.copy()
    for _ in range(most):
        if rng.random() >= more:
            break
        box = random_box(crop.shape, rng, 1 / 6, 1 / 3)
        painted[box] = rng.random(painted[box].shape)
    return painted


def paint_outside(crop: np.ndarray, rng: np.random.Generator, most: int, more: float) -> np.ndarray:
    painted = rng.random(crop.shape)
    for number in range(most):
        if number and rng.random() >= more:
            break
        box = random_box(crop.shape, rng, 3 / 7, 4 / 7)
        painted[box] = crop[box]
    return painted


def elastic(crop: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """In-plane displacement: white noise, smoothed by 8 voxels, times 991; and its mean length."""
    first, second = (gaussian_filter(rng.uniform(-1, 1, crop.shape), 8, mode="constant") * 991 for _ in range(2))
    i, j, k = np.meshgrid(*[np.arange(n) for n in crop.shape], indexing="ij")
    return map_coordinates(crop, [i + first, j + second, k], order=1, mode="reflect"), float(np.hypot(first, second).mean())


def models_genesis(crop: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Shuffling, intensity map, painting: chained, each with its own probability."""
    made = shuffle_boxes(crop, rng, 10_000) if rng.random() < 0.5 else crop.copy()
    made = bezier_map(made, rng) if rng.random() < 0.9 else made
    if rng.random() < 0.9:
        made = paint_inside(made, rng, 5, 0.95) if rng.random() < 0.2 else paint_outside(made, rng, 5, 0.95)
    return made, 0.0


def transvw(crop: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Elastic deformation, then exactly one of four."""
    made, length = elastic(crop, rng)
    one = rng.integers(4)
    if one == 0:
        return bezier_map(made, rng), length
    if one == 1:
        return shuffle_boxes(made, rng, 5), length
    return (paint_inside if one == 2 else paint_outside)(made, rng, 1, 1.0), length


# Measuring.


@dataclass
class Tally:
    """CPU milliseconds for each crop, and what was done to it."""

    times: list[float] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    change: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)

    def note(self, milliseconds: float, made: np.ndarray, crop: np.ndarray, length: float) -> None:
        difference = np.abs(made - crop)
        self.times.append(milliseconds)
        self.changed.append(float((difference > 1e-6).mean()))
        self.change.append(float(difference.mean()))
        self.moved.append(length)


def region_of(size: tuple[int, int, int], batch: int) -> Region:
    """A made-up CT: a body with smooth organs and noise."""
    generator = torch.Generator().manual_seed(1)
    shape = [n + 2 * MARGIN_VOX for n in size]
    organs = torch.nn.functional.interpolate(torch.rand(batch, 1, 6, 6, 6, generator=generator), size=shape, mode="trilinear")
    stored = (organs * 1800 - 900 + 18 * torch.randn(organs.shape, generator=generator)).to(torch.int16)
    none = torch.zeros(batch, 1)
    return Region(
        voxels=stored,
        window=torch.tensor([-1000.0, 1000.0]).repeat(batch, 1, 1),
        affine=torch.eye(4, dtype=torch.float64).repeat(batch, 1, 1),
        body=torch.eye(4, dtype=torch.float64).repeat(batch, 1, 1),
        inside=torch.tensor([[0, n] for n in shape]).repeat(batch, 1, 1),
        ids=Ids(*[torch.arange(batch)] * 3),
        places=Places(torch.zeros(batch, 1, 3), none.long(), none, none, none.bool()),
        size_vox=size,
    )


def view_of(name: str, size: tuple[int, int, int], batch: int, values: dict) -> Callable:
    """A function of a region and a round that draws and applies a view."""
    context = Context(num_scans=10, batch=batch, num_steps=100, size_vox=size, channels=1)
    view = plugins.load("views", name)(plugins.settings("views", name, values), context)

    def show(region: Region, number: int) -> tuple:
        keys = fold(torch.arange(batch) + number * batch, "benchmark")
        return view.apply(region, view.draw(keys, region))

    return show


def timed(work: Callable) -> tuple[float, object]:
    start = time.process_time()
    made = work()
    return (time.process_time() - start) * 1e3, made


def compare(published: Callable, show: Callable, region: Region, clean: torch.Tensor, rounds: int) -> tuple[Tally, Tally]:
    """Both in turn, so that what else the machine does meets both alike."""
    theirs, ours, rng = Tally(), Tally(), np.random.default_rng(0)
    crops, batch = clean[:, 0].numpy().astype(np.float64), len(clean)
    show(region, rounds)
    for number in range(rounds):
        crop = crops[number % batch]
        spent, (made, length) = timed(lambda crop=crop: published(crop, rng))
        theirs.note(spent, made, crop, length)
        spent, (shown,) = timed(lambda number=number: show(region, number))
        length = 0.0 if shown.warp_mm is None else float(shown.warp_mm.norm(dim=1).mean())
        ours.note(spent / batch, shown.voxels.numpy()[:, 0], crops, length)
    return theirs, ours


def print_views(rounds: int) -> None:
    print(f"{'crop':<10} {'view':<34} {'ms/batch':>9} {'ms/crop':>8} {'crops/s':>8}")
    for size, batch in SIZES:
        for name, values in (("clean", {}), ("masked", {}), ("corrupt", {}), ("corrupt", {"elastic": 1.0}), ("augment", {})):
            spent = mean_time(view_of(name, size, batch, values), region_of(size, batch), rounds)
            what = " ".join([name, *(f"{key}={value}" for key, value in values.items())])
            print(f"{'x'.join(map(str, size)):<10} {what:<34} {spent:>9.2f} {spent / batch:>8.2f} {1e3 * batch / spent:>8.0f}")


def mean_time(show: Callable, region: Region, rounds: int) -> float:
    show(region, rounds)
    return statistics.mean(timed(lambda number=number: show(region, number))[0] for number in range(rounds))


def print_comparison(rounds: int) -> None:
    heads = f"{'ms/crop':>8} {'crops/s':>8} {'faster':>7} {'changed':>8} {'change':>7} {'moved mm':>9}"
    print(f"\n{'crop':<10} {'procedure':<16} {'':<10} {heads}")
    for size, batch in SIZES:
        region = region_of(size, batch)
        clean = view_of("clean", size, batch, {})(region, 0)[0].voxels
        length = statistics.mean(elastic(clean[0, 0].numpy(), np.random.default_rng(s))[1] for s in range(3))
        settings = ONE_OF | WARP | FIVE_BLOCKS | {"elastic_mean_mm": length}
        for what, published, values in (("Models Genesis", models_genesis, {}), ("TransVW", transvw, settings)):
            theirs, ours = compare(published, view_of("corrupt", size, batch, values), region, clean, rounds)
            for who, tally in (("published", theirs), ("ours", ours)):
                spent, ratio = statistics.mean(tally.times), statistics.mean(theirs.times) / statistics.mean(tally.times)
                figures = [statistics.mean(values) for values in (tally.changed, tally.change, tally.moved)]
                shown = f"{figures[0]:>8.3f} {figures[1]:>7.3f} {figures[2]:>9.2f}"
                print(f"{'x'.join(map(str, size)):<10} {what:<16} {who:<10} {spent:>8.2f} {1e3 / spent:>8.0f} {ratio:>7.1f} {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print_views(rounds)
    print_comparison(rounds)


if __name__ == "__main__":
    main()
