"""Shared fixtures. Larger data is used where it exists, and its absence is said aloud."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penjing.engine import Engine

BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A directory of real models and texts that is not part of the repository (docs/development.md)."""
    directory = Path(os.environ.get("PENJING_TEST_DATA") or BESIDE_THE_CHECKOUT)
    if not directory.is_dir():
        pytest.skip(f"no test data at {directory}; PENJING_TEST_DATA names another directory")
    return directory


@pytest.fixture(scope="session")
def stories260k(shared_data: Path) -> Path:
    """A trained Llama of 260k parameters whose feed-forward is 172 wide."""
    path = shared_data / "stories260k"
    if not path.is_dir():
        pytest.skip(f"no model at {path}")
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For torch, where matrices are too small for two."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Engine]]:
    """The engines made in this test; whatever it was about, their invariants are checked when it ends."""
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
