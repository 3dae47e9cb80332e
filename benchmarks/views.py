"""How fast the views are on one CPU thread, beside the published procedures restated in numpy.

The restatements follow the formulas of Models Genesis (Zhou et al. 2019) and TransVW (Haghighi et al. 2021), one crop at a time; beside
them, where MONAI is installed, its nearest transforms. Of TransVW's four changes each is drawn equally often for all. Statistics are
printed beside the times: share of voxels changed, their mean change, and the mean displacement.

    OMP_NUM_THREADS=1 python benchmarks/views.py --rounds 24 --side 96
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.device._run import region_of
from pipeline import plugins
from pipeline.keys import fold
from pipeline.step import Context, Region

SIZES = (((32, 48, 32), 8), ((64, 64, 32), 8), ((96, 96, 96), 1))
MARGIN_VOX = 14
FOUR = ("non_linear", "shuffle", "in_painting", "out_painting")
ONE_OF = {"one_of": True}
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


def models_genesis(crop: np.ndarray, rng: np.random.Generator, one: int) -> tuple[np.ndarray, float]:
    """Shuffling, intensity map, painting: chained, each with its own probability."""
    made = shuffle_boxes(crop, rng, 10_000) if rng.random() < 0.5 else crop.copy()
    made = bezier_map(made, rng) if rng.random() < 0.9 else made
    if rng.random() < 0.9:
        made = paint_inside(made, rng, 5, 0.95) if rng.random() < 0.2 else paint_outside(made, rng, 5, 0.95)
    return made, 0.0


def transvw(crop: np.ndarray, rng: np.random.Generator, one: int) -> tuple[np.ndarray, float]:
    """Elastic deformation, then exactly one of four: number ``one``."""
    made, length = elastic(crop, rng)
    if one == 0:
        return bezier_map(made, rng), length
    if one == 1:
        return shuffle_boxes(made, rng, 5), length
    return (paint_inside if one == 2 else paint_outside)(made, rng, 1, 1.0), length


# MONAI's nearest transforms: it has no falling map, and its displacement has three axes.


def monai_transforms(size: tuple[int, int, int], holes: int, boxes: int) -> tuple[Callable, ...]:
    """Intensity map, shuffling, in-painting, out-painting, each always applied."""
    from monai.transforms import RandCoarseDropout, RandCoarseShuffle, RandHistogramShift

    def sides(low: float, high: float) -> dict:
        return {"spatial_size": [int(n * low) for n in size], "max_spatial_size": [int(n * high) for n in size]}

    most, noise = {"holes": 1, "max_holes": boxes if boxes > 1 else None, "prob": 1.0}, (0.0, 1.0)
    made = (
        RandHistogramShift(num_control_points=4, prob=1.0),
        RandCoarseShuffle(holes, [1, 1, 1], max_spatial_size=[n // 10 for n in size], prob=1.0),
        RandCoarseDropout(**most, **sides(1 / 6, 1 / 3), fill_value=noise),
        RandCoarseDropout(**most, **sides(3 / 7, 4 / 7), fill_value=noise, dropout_holes=False),
    )
    return tuple(transform.set_random_state(number) for number, transform in enumerate(made))


def monai_genesis(size: tuple[int, int, int]) -> Callable:
    bend, shuffle, inside, outside = monai_transforms(size, 10_000, 5)

    def show(crop: np.ndarray, rng: np.random.Generator, one: int) -> tuple[np.ndarray, float]:
        made = torch.from_numpy(crop)[None]
        made = shuffle(made) if rng.random() < 0.5 else made
        made = bend(made) if rng.random() < 0.9 else made
        if rng.random() < 0.9:
            made = (inside if rng.random() < 0.2 else outside)(made)
        return np.asarray(made[0]), 0.0

    return show


def monai_transvw(size: tuple[int, int, int]) -> Callable:
    """The magnitude gives the published mean displacement; its length is computed once, as it costs time that MONAI does not spend."""
    from monai.transforms import Rand3DElastic

    warp = Rand3DElastic((8, 8), (778, 778), prob=1.0, mode="bilinear", padding_mode="reflection").set_random_state(4)
    four = monai_transforms(size, 5, 1)
    warp(torch.zeros(1, *size))
    field = np.stack([gaussian_filter(axis, 8, mode="constant") for axis in np.asarray(warp.rand_offset)]) * warp.magnitude
    length = float(np.linalg.norm(field, axis=0).mean())

    def show(crop: np.ndarray, rng: np.random.Generator, one: int) -> tuple[np.ndarray, float]:
        return np.asarray(four[one](warp(torch.from_numpy(crop)[None]))[0]), length

    return show


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


def region_with_margin(size: tuple[int, int, int], batch: int) -> Region:
    """A made-up CT of 1 mm that all these views find room in."""
    return region_of(size, tuple(n + 2 * MARGIN_VOX for n in size), batch, spacing_mm=1.0, outside_vox=0)


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


def compare(others: dict[str, Callable], shows: list[Callable], region: Region, clean: torch.Tensor, rounds: int) -> dict[str, Tally]:
    """All in turn, so that what else the machine does meets all alike."""
    tallies, rng = {who: Tally() for who in (*others, "ours")}, np.random.default_rng(0)
    crops, batch = clean[:, 0].numpy(), len(clean)
    for show in shows:
        show(region, rounds)
    for number in range(rounds):
        crop, one = crops[number % batch], number % 4
        for who, other in others.items():
            given = crop.astype(np.float64 if who == "published" else np.float32)
            spent, (made, length) = timed(lambda other=other, given=given, one=one: other(given, rng, one))
            tallies[who].note(spent, made, crop, length)
        show = shows[number % len(shows)]
        spent, (shown,) = timed(lambda show=show, number=number: show(region, number))
        length = 0.0 if shown.warp_mm is None else float(shown.warp_mm.norm(dim=1).mean())
        tallies["ours"].note(spent / batch, shown.voxels.numpy()[:, 0], crops, length)
    return tallies


def print_views(rounds: int, sizes: list) -> None:
    print(f"{'crop':<10} {'view':<34} {'ms/batch':>9} {'ms/crop':>8} {'crops/s':>8}")
    for size, batch in sizes:
        for name, values in (("clean", {}), ("masked", {}), ("corrupt", {}), ("corrupt", {"elastic": 1.0}), ("augment", {})):
            spent = mean_time(view_of(name, size, batch, values), region_with_margin(size, batch), rounds)
            what = " ".join([name, *(f"{key}={value}" for key, value in values.items())])
            print(f"{'x'.join(map(str, size)):<10} {what:<34} {spent:>9.2f} {spent / batch:>8.2f} {1e3 * batch / spent:>8.0f}")


def mean_time(show: Callable, region: Region, rounds: int) -> float:
    show(region, rounds)
    return statistics.mean(timed(lambda number=number: show(region, number))[0] for number in range(rounds))


def print_comparison(rounds: int, sizes: list) -> None:
    heads = f"{'ms/crop':>8} {'crops/s':>8} {'x ours':>7} {'changed':>8} {'change':>7} {'moved mm':>9}"
    print(f"\n{'crop':<10} {'procedure':<16} {'':<10} {heads}")
    for size, batch in sizes:
        region = region_with_margin(size, batch)
        clean = view_of("clean", size, batch, {})(region, 0)[0].voxels
        length = statistics.mean(elastic(clean[0, 0].numpy(), np.random.default_rng(s))[1] for s in range(3))
        settings = ONE_OF | WARP | FIVE_BLOCKS | {"elastic_mean_mm": length}
        each = [settings | {name: float(name == one) for name in FOUR} for one in FOUR]
        for what, published, equivalent, values in (
            ("Models Genesis", models_genesis, monai_genesis, [{}]),
            ("TransVW", transvw, monai_transvw, each),
        ):
            others = {"published": published} | ({"MONAI": equivalent(size)} if find_spec("monai") else {})
            tallies = compare(others, [view_of("corrupt", size, batch, value) for value in values], region, clean, rounds)
            for who, tally in tallies.items():
                spent = statistics.mean(tally.times)
                figures = [statistics.mean(values) for values in (tally.changed, tally.change, tally.moved)]
                shown = f"{figures[0]:>8.3f} {figures[1]:>7.3f} {figures[2]:>9.2f}"
                ratio = spent / statistics.mean(tallies["ours"].times)
                print(f"{'x'.join(map(str, size)):<10} {what:<16} {who:<10} {spent:>8.2f} {1e3 / spent:>8.0f} {ratio:>7.1f} {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=32, help="a multiple of 4, so that each of four is drawn equally often")
    parser.add_argument("--side", type=int, help="only crops of this first side")
    given = parser.parse_args()
    sizes = [(size, batch) for size, batch in SIZES if given.side in (None, size[0])]
    torch.set_num_threads(1)
    print_views(given.rounds, sizes)
    print_comparison(given.rounds, sizes)


if __name__ == "__main__":
    main()
