"""How the cost grows: time and memory against a count, on both sides, with the slope."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from development.bench.pictures import SIZES_PX
from development.bench.runs import Peak, Side, graph
from development.bench.table import Bench

COUNTS = (1, 2, 4, 8)
NODES = (1, 2, 4, 8, 16, 32)
QUEUES = (1, 25, 50, 100, 200)
API_DELAY_S = 1.0


@dataclass(frozen=True)
class Point:
    """What one count costs a side."""

    seconds: float
    mib: float


@dataclass(frozen=True)
class Curve:
    """Time and memory against a count. `per` names one more of it, in units of `unit`; `memory` says what is told."""

    title: str
    counted: str
    memory: str
    counts: Sequence[int]
    theirs: Sequence[Point]
    ours: Sequence[Point]
    per: str
    unit: float = 1

    def slopes(self, points: Sequence[Point]) -> tuple[float, float]:
        """Milliseconds and MiB for one more, by least squares."""
        places = np.array(self.counts, float) / self.unit
        ms, mib = (np.polyfit(places, values, 1)[0] for values in _columns(points))
        return 1000 * float(ms), float(mib)


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.seconds for point in points], [point.mib for point in points]


def sizes(bench: Bench, name: str, title: str) -> Curve:
    """A step of the codec against the pixels of a picture."""
    points: dict[str, list[Point]] = {"theirs": [], "ours": []}
    for side in SIZES_PX:
        step = f"{name}-{side}"
        timing = bench.time(step, 3)
        for who in points:
            points[who].append(Point(median(timing.seconds[who]), bench.peak_mib(step, who)))
    pixels = [side * side for side in SIZES_PX]
    return Curve(
        title, "pixels", "peak, beyond what it got", pixels, points["theirs"], points["ours"], "megapixel", 1e6
    )


def pictures(bench: Bench, theirs: Side, ours: Side) -> Curve:
    """One call with more and more pictures."""
    return _curve(
        "n pictures of 1024² in one call, beyond the API's own time",
        ("pictures", "picture"),
        COUNTS,
        (theirs, ours),
        lambda side, count: median(side.added(count) for _ in range(bench.rounds(5))),
    )


def nodes(theirs: Side, ours: Side) -> Curve:
    """One graph with more and more nodes."""
    ours.emulator.delay_s = API_DELAY_S
    try:
        return _curve(
            f"nodes in one graph, API answers in {API_DELAY_S:g} s",
            ("nodes", "node"),
            NODES,
            (theirs, ours),
            lambda side, count: side.run(graph(count)),
        )
    finally:
        ours.emulator.delay_s = 0


def _curve(
    title: str,
    words: tuple[str, str],
    counts: Sequence[int],
    sides: tuple[Side, Side],
    measure: Callable[[Side, int], float],
) -> Curve:
    points: dict[str, list[Point]] = {side.name: [] for side in sides}
    for count in counts:
        for side in sides:
            before_mib = side.memory_mib
            with Peak(side) as peak:
                seconds = measure(side, count)
            points[side.name].append(Point(seconds, max(0.0, peak.mib - before_mib)))
    return Curve(title, words[0], "peak, beyond the idle process", counts, points["theirs"], points["ours"], words[1])


def workflows(theirs: Side, ours: Side) -> Curve:
    """A queue of more and more small workflows, and what the process holds when it is empty again."""
    points: dict[str, list[Point]] = {"theirs": [], "ours": []}
    for side in (theirs, ours):
        side.run_queue(QUEUES[1])  # by then, what is kept for later is there
        for count in QUEUES:
            points[side.name].append(Point(side.run_queue(count), side.memory_mib))
    title = "workflows of 256² in the queue"
    return Curve(title, "workflows", "held afterwards", QUEUES, points["theirs"], points["ours"], "workflow")
