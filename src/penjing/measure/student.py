"""Student's t distribution for whole degrees of freedom: its tail, exactly, and its critical values."""

from __future__ import annotations

import math
from functools import lru_cache

BISECTIONS = 60  # of an interval that begins below 2^20: past the last bit that matters


def student_tail(value: float, degrees: int) -> float:
    """P(T > value) by the finite series of Abramowitz & Stegun, 26.7.3 and 26.7.4."""
    assert degrees >= 1
    angle = math.atan(value / math.sqrt(degrees))
    is_odd = degrees % 2 == 1
    cosine = math.cos(angle)
    term, total = (cosine if is_odd else 1.0), 0.0
    for step in range(1, degrees - 1 if is_odd else degrees, 2):
        total += term
        term *= cosine**2 * ((step + 1) / (step + 2) if is_odd else step / (step + 1))
    within = math.sin(angle) * total
    if is_odd:
        within = 2 / math.pi * (angle + within)
    return (1.0 - within) / 2


@lru_cache(maxsize=1024)
def student_critical(tail: float, degrees: int) -> float:
    """The value that T exceeds with probability `tail`, at most one half."""
    assert 0.0 < tail <= 0.5
    low, high = 0.0, 1.0
    while student_tail(high, degrees) > tail:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, degrees) > tail else (low, middle)
    return high
