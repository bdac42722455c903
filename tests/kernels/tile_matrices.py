"""Random matrices in tile order: any bytes are valid codes, so that no packing is needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from penjing.kernels import Matrix
from penjing.kernels import reference as oracle

SYMMETRIC_FORMATS = ("int8", "int4", "layered", "int2", "int3", "int5", "int6")
ASYMMETRIC_FORMATS = ("int2+", "int3+", "int4+", "int5+", "int6+", "int8+")  # + for zero points
INTEGER_FORMATS = (*SYMMETRIC_FORMATS, *ASYMMETRIC_FORMATS, "table2", "table3", "table4")
FORMATS = (*oracle.ELEMENTS, *INTEGER_FORMATS, *oracle.FLOAT_CODES)
ISAS = ("avx512", "avx2vnni", "avx2", "scalar")


def random_matrix(
    format: str, rows: int, columns: int, group_size: int, seed: int
) -> tuple[Matrix, oracle.Matrix]:
    """The same random matrix for the kernels and for the oracle; `int4+` is `int4` with zero points."""
    rng = np.random.default_rng(seed)
    tiles = -(-rows // oracle.TILE_ROWS)
    if format in oracle.ELEMENTS:
        weights = rng.standard_normal((tiles, columns, oracle.TILE_ROWS))
        weights *= 10.0 ** rng.integers(-6, 3, weights.shape)
        codes = weights.astype(oracle.ELEMENTS[format]).reshape(-1).view(np.uint8)
        return both(format, rows, columns, 0, codes)
    name = format.rstrip("+")
    groups = -(-columns // group_size)
    low, high = (tiles * oracle.TILE_ROWS * groups * group_size * bits // 8 for bits in oracle.PLANES[name])
    scales = rng.standard_normal((tiles, groups, oracle.TILE_ROWS))
    scales *= 2.0 ** rng.integers(-20, 4, scales.shape)  # subnormal in float16, up to large; either sign
    scales[rng.random(scales.shape) < 0.05] = 0
    limit = 2 ** sum(oracle.PLANES[name])
    return both(
        name,
        rows,
        columns,
        group_size,
        rng.integers(0, 256, low, np.uint8),
        scales.astype(np.float16).reshape(-1).view(np.uint16),
        rng.integers(0, 256, low, np.uint8) if name == "layered" else None,
        rng.integers(0, 256, high, np.uint8) if high else None,
        rng.integers(0, limit, scales.size, np.uint8) if format.endswith("+") else None,
        rng.integers(-128, 128, 16, np.int8) if name.startswith("table") else None,
    )


def both(*fields: Any) -> tuple[Matrix, oracle.Matrix]:
    """A matrix for the kernels and for the oracle."""
    return Matrix(*fields), oracle.Matrix(*fields)


def random_rows(tokens: int, columns: int, seed: int) -> np.ndarray:
    """Activations of mixed magnitude, float32 [tokens, columns]."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((tokens, columns)) * 10.0 ** rng.integers(-3, 3, (tokens, columns))
    return rows.astype(np.float32)
