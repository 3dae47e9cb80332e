"""Closed polygons filled on a grid of pixel centres, by the even-odd rule.

Each row of pixels is crossed by the edges whose ends lie on either side of it, the lower end included, the upper one not; a centre is
inside where an odd number of crossings lies at it or before it. So a centre on an outline belongs to the side towards which indices grow
(Right, Anterior, Superior on a canonical grid): of two structures that share an edge exactly one gets it, and a box from edge to edge holds
as many pixels as it is long. The two edges of a keyhole's channel cancel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.scans.quarantine import Code, Refused

SNAP = 4  # decimals of a pixel that count: an outline through centres is not torn by rounding
CROSSING = 0.05  # share of the smaller of two outlines that must be inside, or outside, the other to be no accident of rounding
MAX_CROSSINGS = 1 << 23
MAX_OUTLINES = 1000  # of one structure in one slice


def filled(outlines: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns) bool: inside an odd number of the outlines, each (n, 2) of (row, column) indices; the last point joins the first."""
    out = np.zeros(shape, bool)
    for outline in outlines:
        low, part = inside(outline, shape)
        out[low[0] : low[0] + part.shape[0], low[1] : low[1] + part.shape[1]] ^= part
    return out


def inside(outline: np.ndarray, shape: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray]:
    """(first row and column, bool array from there on) of the pixels inside one outline, cut to the grid."""
    start = np.round(np.asarray(outline, np.float64), SNAP)
    low = np.clip(np.ceil(start.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.ceil(start.max(axis=0)), 0, shape).astype(int)  # a centre at the far end is outside
    size = np.maximum(high - low, 0)
    if size.min() == 0:
        return (0, 0), np.zeros((0, 0), bool)
    rows, crossed = _crossings(start, low[0], high[0])
    column = np.clip(np.ceil(np.round(crossed, SNAP)) - low[1], 0, size[1]).astype(np.int64)
    flips = np.zeros((size[0], size[1] + 1), np.int32)
    np.add.at(flips, (rows - low[0], column), 1)
    return (int(low[0]), int(low[1])), (np.cumsum(flips, axis=1)[:, :-1] % 2).astype(bool)


def _crossings(start: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, column where it is crossed) of every edge and every row from ``low`` to ``high``."""
    end = np.roll(start, -1, axis=0)
    swap = start[:, 0] > end[:, 0]
    lower, upper = np.where(swap[:, None], end, start), np.where(swap[:, None], start, end)
    first = np.clip(np.ceil(lower[:, 0]), low, high).astype(np.int64)
    last = np.clip(np.ceil(upper[:, 0]), low, high).astype(np.int64)
    counts = last - first
    if counts.sum() > MAX_CROSSINGS:
        raise Refused(Code.TOO_LARGE)
    edge = np.repeat(np.arange(len(start)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    a, b = lower[edge], upper[edge]
    return rows, a[:, 1] + (b[:, 1] - a[:, 1]) * (rows - a[:, 0]) / (b[:, 0] - a[:, 0])


def cross(outlines: Sequence[np.ndarray], shape: tuple[int, int]) -> bool:
    """Whether two outlines neither lie apart nor one within the other."""
    if len(outlines) > MAX_OUTLINES:
        raise Refused(Code.TOO_LARGE)
    parts = [inside(outline, shape) for outline in outlines]
    boxes = [(low, (low[0] + part.shape[0], low[1] + part.shape[1])) for low, part in parts]
    for number, (low, high) in enumerate(boxes):
        for other in range(number + 1, len(boxes)):
            start = tuple(map(max, low, boxes[other][0]))
            stop = tuple(map(min, high, boxes[other][1]))
            if start[0] >= stop[0] or start[1] >= stop[1]:
                continue
            a, b = (_window(parts[item], start, stop) for item in (number, other))
            smaller = min(parts[number][1].sum(), parts[other][1].sum())
            if smaller and CROSSING < (a & b).sum() / smaller < 1 - CROSSING:
                return True
    return False


def _window(part: tuple[tuple[int, int], np.ndarray], start: tuple[int, ...], stop: tuple[int, ...]) -> np.ndarray:
    (row, column), array = part
    return array[start[0] - row : stop[0] - row, start[1] - column : stop[1] - column]
