"""A weight matrix as it is stored: the parts of each format, and their sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError
from penjing.formats.codes import TABLE_BITS, TABLE_ENTRIES
from penjing.formats.tiles import padded_rows
from penjing.spec import WITH_ZERO_POINTS

FLOAT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}  # of an element
PLANE_BITS = {  # of a code in the low plane (the part `codes`) and in the plane `high`
    "int2": (2, 0),
    "int3": (2, 1),
    "int4": (4, 0),
    "int5": (4, 1),
    "int6": (4, 2),
    "int8": (8, 0),
    "layered": (4, 0),
    "table2": (2, 0),
    "table3": (2, 1),
    "table4": (4, 0),
    "nf4": (4, 0),
    "mxfp4": (4, 0),
    "fp8": (8, 0),
}


@dataclass(frozen=True)
class PartSizes:
    """Bytes of each stored part of a matrix; 0 for a part that the format does not have."""

    codes: int
    high: int = 0
    scales: int = 0
    zeros: int = 0
    table: int = 0
    residual: int = 0

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return self.codes + self.high + self.scales + self.zeros + self.table + self.residual


def part_sizes(format: str, rows: int, columns: int, group_size: int, asymmetric: bool = False) -> PartSizes:
    """Bytes of a [rows, columns] matrix, padding included.

    Raises FormatError if the format is unknown, or cannot have zero points.
    """
    if format in FLOAT_BYTES:
        return PartSizes(padded_rows(rows) * columns * FLOAT_BYTES[format])
    if format not in PLANE_BITS:
        known = ", ".join([*FLOAT_BYTES, *PLANE_BITS])
        raise FormatError(f"unknown matrix format {format!r}: use one of {known}")
    if asymmetric and format not in WITH_ZERO_POINTS:
        raise FormatError(f"{format} has no zero points; use one of {', '.join(WITH_ZERO_POINTS)}")
    groups = padded_rows(rows) * -(-columns // group_size)
    low, high = (groups * group_size * bits // 8 for bits in PLANE_BITS[format])
    return PartSizes(
        codes=low,
        high=high,
        scales=2 * groups,
        zeros=groups if asymmetric else 0,
        table=TABLE_ENTRIES if format in TABLE_BITS else 0,
        residual=low if format == "layered" else 0,
    )


@dataclass(frozen=True, eq=False)
class Encoded:
    """A weight matrix [rows, columns] in tile order (docs/artifact.md).

    format: fp32, fp16, bf16 or one of PLANE_BITS. group_size: columns a scale covers, 0 for float formats.
    codes: uint8, the packed codes, or the bytes of the elements. scales: uint16, float16 bits of [tiles,
    groups, 16] flattened, or None. residual: uint8, the second plane of a layered matrix, or None. high:
    uint8, the plane of the codes' upper bits, or None. zeros: uint8 [tiles, groups, 16] flattened, the zero
    points of an asymmetric matrix, or None. table: int8 [16], the levels of a matrix of TABLE_BITS, or None.
    tiny_groups: as in `Codes`; not stored.
    Raises FormatError if a part has another size than the format says.
    """

    format: str
    rows: int
    columns: int
    group_size: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.uint16] | None = None
    residual: NDArray[np.uint8] | None = None
    high: NDArray[np.uint8] | None = None
    zeros: NDArray[np.uint8] | None = None
    table: NDArray[np.int8] | None = None
    tiny_groups: int = 0

    def __post_init__(self) -> None:
        wanted = self.sizes
        for part in ("codes", "high", "scales", "zeros", "table", "residual"):
            array, expected = getattr(self, part), getattr(wanted, part)
            actual = 0 if array is None else array.nbytes
            if actual != expected:
                shape = f"{self.format} [{self.rows}, {self.columns}]"
                raise FormatError(f"{shape}: {part} has {actual} bytes, and {expected} are expected")

    @property
    def asymmetric(self) -> bool:
        """Whether groups have zero points."""
        return self.zeros is not None

    @property
    def sizes(self) -> PartSizes:
        """Bytes of each part."""
        return part_sizes(self.format, self.rows, self.columns, self.group_size, self.asymmetric)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, padding included."""
        return self.sizes.total

    @property
    def padded_columns(self) -> int:
        """Columns rounded up to whole groups."""
        return -(-self.columns // self.group_size) * self.group_size if self.group_size else self.columns


def dtype_of(format: str) -> np.dtype[Any]:
    """The elements of a float format. What only reads integers never loads ml_dtypes."""
    if format == "bf16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype({"fp32": np.float32, "fp16": np.float16}[format])


def residual_saturation(encoded: Encoded) -> float:
    """The fraction of a layered matrix's residual codes at either end of [-8, 7].

    An element inside its base grid leaves at most half a base step, four residual steps, so codes at the ends
    belong to elements that the base plane clipped by more than the residual plane can give back.
    """
    if encoded.residual is None:
        raise FormatError(f"a {encoded.format} matrix has no residual plane")
    low, high = encoded.residual & 15, encoded.residual >> 4
    ends = sum(np.count_nonzero((part == 0) | (part == 15)) for part in (low, high))
    return ends / (encoded.rows * encoded.columns)
