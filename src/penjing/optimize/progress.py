"""How long work reports itself: a callable of (stage, units done, units in all), and one of lines."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]


def silent(*_: object) -> None:
    """Report to nobody."""
