"""Which slices belong to which volume.

A series is split by what always separates volumes (matrix, orientation, kind of image, diffusion weighting). What separates volumes only
sometimes (echo, time point, acquisition, gradient direction, echo time ...: the traits) splits it where slices share a place, or where the
parts are regular stacks and the whole is none: some scanners number slices by them. Time points without a name are told apart by their
clocks: instance number, acquisition time and trigger time, which must all tell the same story.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.scans.dicom.geometry import MAX_TURN, axes, stack_of
from pipeline.scans.dicom.slices import Series, Slice
from pipeline.scans.quarantine import Code, Refused

SAME_PLACE_MM = 1e-3


def group(slices: Sequence[Slice]) -> list[Series]:
    """Slices by volume, in a stable order; exact repeats stay with their twin, and ``stack.ordered`` judges them."""
    volumes: dict[tuple[Any, ...], Series] = {}
    for key, own in sorted(_by(slices, lambda item: item.key).items(), key=lambda pair: repr(pair[0])):
        unique = {item.instance or str(item.path): item for item in sorted(own, key=lambda item: (item.instance, str(item.path)))}
        place_of: dict[str, tuple[Any, ...]] = {}
        for turn in _by_orientation(list(unique.values())):
            direction = tuple(round(c, 2) + 0.0 for c in turn[0].orientation)
            for number, (names, part) in enumerate(_volumes(turn, 0)):
                whole = (*key, direction, *names)
                whole = whole if whole not in volumes else (*whole, number)
                volumes[whole] = Series()
                place_of.update({item.instance or str(item.path): whole for item in part})
        for item in sorted(own, key=lambda item: str(item.path)):
            whole = place_of[item.instance or str(item.path)]
            volumes[whole].slices.append(replace(item, key=whole))
    return [volumes[key] for key in sorted(volumes, key=repr)]


def _by(slices: Sequence[Slice], name: Any) -> dict[Any, list[Slice]]:
    found: dict[Any, list[Slice]] = defaultdict(list)
    for item in slices:
        found[name(item)].append(item)
    return found


def _by_orientation(slices: list[Slice]) -> list[list[Slice]]:
    """Slices whose direction cosines agree; writers round them differently."""
    clusters: list[list[Slice]] = []
    for item in slices:
        for cluster in clusters:
            if all(abs(a - b) <= MAX_TURN for a, b in zip(cluster[0].orientation, item.orientation, strict=True)):
                cluster.append(item)
                break
        else:
            clusters.append([item])
    return clusters


def _volumes(slices: list[Slice], first: int) -> list[tuple[tuple[Any, ...], list[Slice]]]:
    """(what sets it apart, slices) of each volume; the whole where nothing separates it."""
    if slices[0].is_whole or _is_regular(slices):
        return [((), slices)]
    crowded = _is_crowded(slices)
    separate: list[tuple[tuple[Any, ...], list[Slice]]] = []
    for trait in range(first, len(slices[0].traits)):
        parts = _by(slices, lambda item, trait=trait: item.traits[trait])
        if len(parts) == 1:
            continue
        found = [
            ((trait, str(value), *names), part)
            for value, own in sorted(parts.items(), key=lambda pair: repr(pair[0]))
            for names, part in _volumes(own, trait + 1)
        ]
        if all(_is_regular(part) for _, part in found):
            return found
        if crowded and not separate and not any(_is_crowded(part) for _, part in found):
            separate = found
    return [(("time", number), part) for number, part in enumerate(_by_time(slices))] or separate or [((), slices)]


def _is_regular(slices: Sequence[Slice]) -> bool:
    try:
        stack_of([item.plane for item in slices])
    except Refused as refused:
        return refused.code is Code.GANTRY_TILT
    return True


def _heights(slices: Sequence[Slice]) -> np.ndarray:
    normal = axes(np.asarray(slices[0].orientation))[2]
    return np.array([item.position for item in slices]) @ normal


def _is_crowded(slices: Sequence[Slice]) -> bool:
    """Whether two slices share a place."""
    return len(slices) > 1 and float(np.diff(np.sort(_heights(slices))).min()) < SAME_PLACE_MM


def _by_time(slices: list[Slice]) -> list[list[Slice]]:
    """One list a time point, or none where the clocks leave a doubt."""
    height = _heights(slices)
    order = np.argsort(height, kind="stable")
    places = np.split(order, np.flatnonzero(np.diff(height[order]) >= SAME_PLACE_MM) + 1)
    times = len(places[0])
    if times < 2 or any(len(place) != times for place in places):
        return []
    stories = [story for clock in range(len(slices[0].clocks)) if (story := _story(slices, places, clock))]
    if not stories or any(story != stories[0] for story in stories):
        return []
    if _story(slices, places, 0) and not _in_blocks(slices, stories[0]):
        return []
    return [[slices[place[time]] for place in stories[0]] for time in range(times)]


def _story(slices: list[Slice], places: list[np.ndarray], clock: int) -> list[list[int]]:
    """The slices of each place in the order of one clock; empty where that clock does not tell them all apart."""
    story = []
    for place in places:
        times = {int(index): slices[index].clocks[clock] for index in place}
        if None in times.values() or len(set(times.values())) < len(times):
            return []
        story.append(sorted(times, key=times.__getitem__))
    return story


def _in_blocks(slices: list[Slice], story: list[list[int]]) -> bool:
    """Whether instance numbers run through a whole volume before the next one begins, and through each in the same order of places; or
    through all times of a place before the next place."""
    numbers = np.array([[slices[index].clocks[0] for index in place] for place in story])
    if len(set(numbers.ravel())) < numbers.size:
        return False
    turns = np.argsort(numbers, axis=0)
    by_volume = (numbers[:, :-1].max(axis=0) < numbers[:, 1:].min(axis=0)).all() and (turns == turns[:, :1]).all()
    firsts = numbers[np.argsort(numbers[:, 0])]
    return bool(by_volume or (firsts[:-1].max(axis=1) < firsts[1:].min(axis=1)).all())
