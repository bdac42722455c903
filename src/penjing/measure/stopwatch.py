"""How long a call takes, where other work may disturb it."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

Clock = Callable[[], float]
REPEATS = 5
ENOUGH_SECONDS = 0.005  # of all repeats of a short call together


def clock_of(threads: int) -> Clock:
    """Processor time where the calling thread does all the work, which other programs can hardly disturb;
    wall time where it has help."""
    return time.thread_time if threads == 1 else time.perf_counter


def best_seconds(call: Callable[[], object], most: int = REPEATS, clock: Clock = time.thread_time) -> float:
    """The best of a few calls, or of a few batches of short ones: what other work does not disturb."""
    call()
    start = clock()
    call()
    once = max(clock() - start, 1e-7)
    batch = max(1, int(ENOUGH_SECONDS / most / once))
    if once > ENOUGH_SECONDS:
        most -= 1
    for _ in range(most):
        start = clock()
        for _ in range(batch):
            call()
        once = min(once, (clock() - start) / batch)
    return once


def usual_seconds(
    call: Callable[[], object],
    clock: Clock = time.perf_counter,
    *,
    warm: int = 1,
    least: int = 3,
    enough_seconds: float = 0.15,
) -> float:
    """The median of at least so many calls, which take so long together, after `warm` that do not count: what
    lasts, not a lucky moment."""
    for _ in range(warm):
        call()
    seconds: list[float] = []
    while len(seconds) < least or sum(seconds) < enough_seconds:
        start = clock()
        call()
        seconds.append(clock() - start)
    return median(seconds)


def less(seconds: float, part: float) -> float:
    """What is left, and at least a tenth: two timings never differ exactly by what they should."""
    return max(seconds - part, 0.1 * seconds)
