"""Codes to the order in which kernels read, and back: `pack(codes)` is what an artifact stores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError
from penjing.formats import tiles
from penjing.formats.codes import TABLE_BITS, TABLE_ENTRIES, UNIFORM_BITS, Codes
from penjing.formats.encoded import PLANE_BITS, Encoded
from penjing.formats.tiles import padded_rows
from penjing.spec import WeightFormat

Bytes = NDArray[np.uint8]


NEUTRAL_RESIDUAL = 8  # the residual code of padding, and of nothing to add


def neutral_code(format: str, asymmetric: bool) -> int:
    """The code of padding: that of zero on a symmetric grid of whole numbers, else 0."""
    symmetric = format in UNIFORM_BITS and not asymmetric
    return 2 ** (UNIFORM_BITS[format] - 1) if symmetric else 0


def pack(codes: Codes) -> Encoded:
    """The matrix in tile order, padded with neutral codes, scales 0 and zero points 0.

    Raises FormatError if a part is missing, is one too many, or has another shape, dtype or range than the
    format says.
    """
    check_parts(codes)
    rows, columns = codes.codes.shape
    group_size = codes.format.group_size
    low_bits, high_bits = PLANE_BITS[codes.format.name]
    padded = pad(codes.codes, group_size, neutral_code(codes.format.name, codes.format.asymmetric))
    low = padded & np.uint8(2**low_bits - 1) if high_bits else padded
    scales = tiles.pack_groups(pad(codes.scales.view(np.uint16), 1, 0))
    return Encoded(
        codes.format.name,
        rows,
        columns,
        group_size,
        codes=tiles.pack_plane(low, low_bits),
        scales=scales,
        residual=None
        if codes.residual is None
        else tiles.pack_plane(pad(codes.residual, group_size, NEUTRAL_RESIDUAL), 4),
        high=tiles.pack_plane(padded >> np.uint8(low_bits), high_bits) if high_bits else None,
        zeros=None if codes.zeros is None else tiles.pack_groups(pad(codes.zeros, 1, 0)),
        table=codes.table,
        tiny_groups=codes.tiny_groups,
    )


def unpack(encoded: Encoded) -> Codes:
    """The inverse of `pack`: codes, scales and zero points without padding. FormatError for float formats."""
    if encoded.format not in PLANE_BITS or encoded.scales is None:
        raise FormatError(f"a {encoded.format} matrix has no codes")
    rows, columns = encoded.rows, encoded.columns
    groups = encoded.padded_columns // encoded.group_size
    low_bits, high_bits = PLANE_BITS[encoded.format]

    def plane(packed: Bytes, bits: int) -> Bytes:
        return tiles.unpack_plane(packed, encoded.padded_columns, bits)[:rows, :columns]

    codes = plane(encoded.codes, low_bits)
    if encoded.high is not None:
        codes = codes | plane(encoded.high, high_bits) << np.uint8(low_bits)
    return Codes(
        format_of(encoded),
        np.ascontiguousarray(codes),
        np.ascontiguousarray(tiles.unpack_groups(encoded.scales, groups)[:rows]).view(np.float16),
        zeros=None if encoded.zeros is None else tiles.unpack_groups(encoded.zeros, groups)[:rows],
        table=encoded.table,
        residual=None if encoded.residual is None else plane(encoded.residual, 4),
    )


def format_of(encoded: Encoded) -> WeightFormat:
    """The format of a matrix of codes."""
    return WeightFormat.model_validate(
        {"name": encoded.format, "group_size": encoded.group_size, "asymmetric": encoded.asymmetric}
    )


def check_parts(codes: Codes) -> None:
    """Raise FormatError unless `codes` has the parts of its format, each of its shape, dtype and range."""
    name = codes.format.name
    if name not in PLANE_BITS or codes.codes.ndim != 2 or codes.codes.size == 0:
        raise FormatError(f"{name} of shape {list(codes.codes.shape)}: there is nothing to pack")
    rows, columns = codes.codes.shape
    groups = (rows, -(-columns // codes.format.group_size))
    bits = sum(PLANE_BITS[name])
    uint8, int8 = np.dtype(np.uint8), np.dtype(np.int8)
    expected = {
        "codes": (True, (rows, columns), uint8, 2**bits),
        "scales": (True, groups, np.dtype(np.float16), None),
        "zeros": (codes.format.asymmetric, groups, uint8, 2**bits),
        "table": (name in TABLE_BITS, (TABLE_ENTRIES,), int8, None),
        "residual": (name == "layered", (rows, columns), uint8, 16),
    }
    for part, (present, shape, dtype, limit) in expected.items():
        array = getattr(codes, part)
        if (array is not None) != present:
            raise FormatError(f"{name}: {part} {'are missing' if present else 'do not belong to it'}")
        if array is None:
            continue
        if array.shape != shape or array.dtype != dtype:
            raise FormatError(
                f"{name}: {part} are {array.dtype} {list(array.shape)}, and must be {dtype} {list(shape)}"
            )
        if limit is not None and limit < 256 and int(array.max()) >= limit:
            raise FormatError(f"{name}: {part} reach {int(array.max())}, and must be below {limit}")
    if not np.isfinite(codes.scales).all():
        raise FormatError(f"{name}: NaN or Inf among the scales")


def pad(array: NDArray[Any], multiple: int, neutral: int) -> NDArray[Any]:
    """Rows rounded up to whole tiles and columns to a multiple; `neutral` fills the new ones."""
    rows, columns = array.shape
    below, right = padded_rows(rows) - rows, -columns % multiple
    return np.pad(array, ((0, below), (0, right)), constant_values=neutral) if below or right else array
