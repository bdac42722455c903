"""Random matrices in tile order: any bytes are valid codes, so that no packing is needed."""

from __future__ import annotations

import numpy as np

from penjing.kernels import Matrix
from penjing.kernels import reference as oracle

INTEGER_FORMATS = ("int8", "int4", "layered")
FORMATS = (*oracle.ELEMENTS, *INTEGER_FORMATS)
ISAS = ("avx512", "avx2vnni", "avx2", "scalar")


def random_matrix(
    format: str, rows: int, columns: int, group_size: int, seed: int
) -> tuple[Matrix, oracle.Matrix]:
    """The same random matrix for the kernels and for the oracle."""
    rng = np.random.default_rng(seed)
    tiles = -(-rows // oracle.TILE_ROWS)
    if format in oracle.ELEMENTS:
        weights = rng.standard_normal((tiles, columns, oracle.TILE_ROWS))
        weights *= 10.0 ** rng.integers(-6, 3, weights.shape)
        codes = weights.astype(oracle.ELEMENTS[format]).reshape(-1).view(np.uint8)
        fields = (format, rows, columns, 0, codes, None, None)
    else:
        groups = -(-columns // group_size)
        plane = tiles * oracle.TILE_ROWS * groups * group_size * (8 if format == "int8" else 4) // 8
        codes = rng.integers(0, 256, plane, np.uint8)
        scales = rng.standard_normal((tiles, groups, oracle.TILE_ROWS))
        scales *= 2.0 ** rng.integers(-20, 4, scales.shape)  # subnormal in float16, up to large; either sign
        residual = rng.integers(0, 256, plane, np.uint8) if format == "layered" else None
        half = scales.astype(np.float16).reshape(-1).view(np.uint16)
        fields = (format, rows, columns, group_size, codes, half, residual)
    return Matrix(*fields), oracle.Matrix(*fields)


def random_rows(tokens: int, columns: int, seed: int) -> np.ndarray:
    """Activations of mixed magnitude, float32 [tokens, columns]."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((tokens, columns)) * 10.0 ** rng.integers(-3, 3, (tokens, columns))
    return rows.astype(np.float32)
