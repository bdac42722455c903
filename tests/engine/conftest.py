"""Every engine that a test makes is checked after it, whatever the test was about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penjing.engine import Engine


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Engine]]:
    """The engines made in this test; their invariants are checked when it ends."""
    made: list[Engine] = []
    original = Engine.__init__

    def remember(self: Engine, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(Engine, "__init__", remember)
    yield made
    for engine in made:
        engine.check_invariants()
        if not engine.has_work and not engine._scorer.held_pages:
            assert engine.free_pages == engine.stats().pages_total, "pages are lost"
