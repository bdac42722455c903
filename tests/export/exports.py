"""Artifacts of random codes in every format, for the tests of exports."""

from __future__ import annotations

from typing import Any

import numpy as np

from penjing.formats import Codes
from penjing.formats.encoded import PLANE_BITS
from penjing.spec import WeightFormat


def random_codes(name: str, asymmetric: bool, rows: int, columns: int, group_size: int = 64) -> Codes:
    """Any code under scales of both signs, with both ends of the grid in every group."""
    generator = np.random.default_rng([*name.encode(), asymmetric, rows, columns, group_size])
    format = WeightFormat.model_validate({"name": name, "group_size": group_size, "asymmetric": asymmetric})
    groups = (rows, -(-columns // format.group_size))
    bits = sum(PLANE_BITS[name])
    codes = generator.integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    codes[:, ::32], codes[:, 1::32] = 0, 2**bits - 1
    scales: Any = (generator.normal(size=groups) * 0.01).astype(np.float16)
    if name == "mxfp4":
        scales = (2.0 ** generator.integers(-9, 3, groups)).astype(np.float16)
    scales[0, 0] = 0
    return Codes(
        format,
        codes,
        scales,
        zeros=generator.integers(0, 2**bits, groups).astype(np.uint8) if asymmetric else None,
        table=np.sort(generator.choice(255, 16, replace=False) - 127).astype(np.int8)
        if name.startswith("table")
        else None,
        residual=generator.integers(0, 16, (rows, columns)).astype(np.uint8) if name == "layered" else None,
    )
