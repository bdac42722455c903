"""Kernel tests run on every instruction set; those that this CPU lacks are skipped by name."""

from __future__ import annotations

import pytest
from tile_matrices import ISAS

from penjing.kernels import available_isas


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set that the core was compiled for."""
    name: str = request.param
    if name not in available_isas():
        pytest.skip(f"this CPU cannot run {name}")
    return name
