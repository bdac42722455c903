"""Shared fixtures. Data beside the checkout is used where it exists, and its absence is said aloud."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A directory of real models and texts that is not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no shared test data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def stories260k(shared_data: Path) -> Path:
    """A trained Llama of 260k parameters whose feed-forward is 172 wide."""
    return shared_data / "stories260k"
