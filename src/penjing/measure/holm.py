"""Several claims at once: Holm's correction (Holm, Scandinavian Journal of Statistics 6, 1979, 65-70)."""

from __future__ import annotations

from collections.abc import Mapping


def adjust(p_values: Mapping[str, float]) -> dict[str, float]:
    """Each claim's p-value, adjusted for being one of several: it is proved at every level above that.

    All claims proved at a level are true together with at least that confidence, however the tasks depend on
    each other. In order of size, the p-value at place i of m is multiplied by m - i, and never lets a larger
    one overtake it.
    """
    assert all(0.0 <= value <= 1.0 for value in p_values.values()), p_values
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def proved(p_values: Mapping[str, float], confidence: float = 0.95) -> tuple[str, ...]:
    """The claims that are proved, all together with this confidence; in the order given."""
    assert 0.0 < confidence < 1.0
    return tuple(name for name, value in adjust(p_values).items() if value <= 1.0 - confidence)
