"""GGML's block types: 32 weights of a row share a scale, and their codes follow it.

`TYPES` names the type of each format. Half-precision numbers are little-endian; code j and code j + 16 of a
block share a byte, the first in its low nibble (ggml-common.h and ggml-quants.c of llama.cpp).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError
from penjing.export.steps import format_text, steps_of
from penjing.formats import Codes, dequantize
from penjing.spec import Tier, WeightFormat

BLOCK = 32  # weights that share a scale
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

# By format, and whether it has zero points. Levels that fit a type without one lose nothing there.
TYPES = {
    ("int2", False): "Q4_0",
    ("int2", True): "Q4_0",
    ("int3", False): "Q4_0",
    ("int3", True): "Q4_0",
    ("int4", False): "Q4_0",
    ("int4", True): "Q4_1",
    ("int5", False): "Q5_0",
    ("int5", True): "Q5_1",
    ("int6", False): "Q8_0",
    ("int6", True): "Q8_0",
    ("int8", False): "Q8_0",
    ("int8", True): "F16",
    ("table2", False): "Q8_0",
    ("table3", False): "Q8_0",
    ("table4", False): "Q8_0",
    ("mxfp4", False): "MXFP4",
    ("nf4", False): "F16",
    ("fp8", False): "F16",
}
WIDENING = ("Q4_0", "Q5_0", "Q8_0")  # each holds the levels of those before it


@dataclass(frozen=True)
class GgmlType:
    """number: in the file. block_bytes: of `block` weights. file_type: llama.cpp's for mostly this type."""

    number: int
    block: int
    block_bytes: int
    file_type: int

    def row_bytes(self, columns: int) -> int:
        """Of a row of weights."""
        return columns // self.block * self.block_bytes


GGML_TYPES = {
    "F32": GgmlType(0, 1, 4, 0),
    "F16": GgmlType(1, 1, 2, 1),
    "BF16": GgmlType(30, 1, 2, 32),
    "Q4_0": GgmlType(2, BLOCK, 18, 2),
    "Q4_1": GgmlType(3, BLOCK, 20, 3),
    "Q5_0": GgmlType(6, BLOCK, 22, 8),
    "Q5_1": GgmlType(7, BLOCK, 24, 9),
    "Q8_0": GgmlType(8, BLOCK, 34, 7),
    "MXFP4": GgmlType(39, BLOCK, 17, 38),
}


def type_of(format: WeightFormat, tier: Tier, columns: int) -> str:
    """The type that a format is written in; F16 where rows are no whole blocks."""
    if columns % BLOCK:
        return "F16"
    if format.name == "layered":
        return "Q4_0" if tier == "fast" else "Q8_0"
    return TYPES[format.name, format.asymmetric]


def common_type(types: set[str]) -> str:
    """One type for matrices that must share it."""
    if len(types) == 1:
        return next(iter(types))
    if types <= set(WIDENING):
        return max(types, key=WIDENING.index)
    return "F32" if types & {"F32", "BF16"} else "F16"


def pack(codes: Codes, tier: Tier, target: str, name: str) -> tuple[Bytes, Floats]:
    """Bytes [N, row bytes] of a matrix, and the float32 weights [N, K] that a reader gets from them.

    Raises FormatError, with the tensor's name, if a scale is beyond float16.
    """
    if target in ("F16", "F32"):
        return pack_floats(dequantize(codes, tier), target, name)
    if target == "MXFP4":
        return pack_mxfp4(codes)
    steps = steps_of(codes, tier)
    if target in PACKERS_WITH_MINIMUM:
        steps = steps.by_blocks(BLOCK)
        assert steps.zeros is not None
        scales = halves(steps.scales, name)
        minima = halves(-steps.scales * steps.zeros, name)
        packed = PACKERS_WITH_MINIMUM[target](blocks_of(steps.levels))
        spread = np.repeat(minima.astype(np.float32), BLOCK, axis=1)
        values = steps.values(scales.astype(np.float32)) + spread
        return joined(scales, minima, packed), values
    steps = steps.without_zeros().by_blocks(BLOCK)
    scales = halves(steps.scales, name)
    return joined(scales, PACKERS[target](blocks_of(steps.levels))), steps.values(scales.astype(np.float32))


def pack_floats(values: Floats, target: str, name: str) -> tuple[Bytes, Floats]:
    """Weights one by one, in half or single precision."""
    if target == "F32":
        return np.ascontiguousarray(values, "<f4").view(np.uint8), values
    written = halves(values, name)
    return written.view(np.uint8), written.astype(np.float32)


def halves(numbers: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    """Rounded to float16."""
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(numbers, "<f2")
    if not np.isfinite(rounded).all():
        raise FormatError(f"{name}: a number of it is beyond float16; export to safetensors as fp32 instead")
    return rounded


def blocks_of(levels: NDArray[np.int16]) -> NDArray[np.int16]:
    """[N, blocks, 32]."""
    return levels.reshape(levels.shape[0], -1, BLOCK)


def joined(*parts: NDArray[np.float16] | Bytes) -> Bytes:
    """Numbers [N, blocks] and bytes [N, blocks, n] of each block, one after another: [N, bytes]."""
    fields = [np.asarray(part if part.ndim == 3 else part[:, :, None].view(np.uint8)) for part in parts]
    packed: Bytes = np.concatenate(fields, axis=2, dtype=np.uint8)
    return packed.reshape(parts[0].shape[0], -1)


def nibbles(unsigned: NDArray[np.int16]) -> Bytes:
    """Low four bits of 32 codes in 16 bytes."""
    low: Bytes = (unsigned & 15).astype(np.uint8)
    high: Bytes = low[..., 16:] << np.uint8(4)
    return low[..., :16] | high


def fifth_bits(unsigned: NDArray[np.int16]) -> Bytes:
    """Bit 4 of 32 codes in 4 bytes."""
    return np.packbits((unsigned >> 4).astype(np.uint8), axis=-1, bitorder="little")


def q5(unsigned: NDArray[np.int16]) -> Bytes:
    """The fifth bits, and then the others."""
    return np.concatenate([fifth_bits(unsigned), nibbles(unsigned)], axis=2)


PACKERS: dict[str, Callable[[NDArray[np.int16]], Bytes]] = {
    "Q4_0": lambda levels: nibbles(levels + 8),
    "Q5_0": lambda levels: q5(levels + 16),
    "Q8_0": lambda levels: levels.astype(np.int8).view(np.uint8),
}
PACKERS_WITH_MINIMUM: dict[str, Callable[[NDArray[np.int16]], Bytes]] = {"Q4_1": nibbles, "Q5_1": q5}


def pack_mxfp4(codes: Codes) -> tuple[Bytes, Floats]:
    """The same codes; a scale 2^n is stored as n + 127, and a group of zeros as zeros."""
    groups = codes.scales.astype(np.float32)
    mantissas, exponents = np.frexp(groups)
    if not np.isin(mantissas, (0.0, 0.5)).all():
        raise FormatError("a scale of mxfp4 is no power of two; write the artifact again")
    stored = np.where(groups == 0, 0, exponents + 126).astype(np.uint8)
    levels = np.where(np.repeat(groups == 0, BLOCK, axis=1), 0, codes.codes).astype(np.int16)
    return joined(stored[:, :, None], nibbles(blocks_of(levels))), dequantize(codes)


def source_text(format: WeightFormat, tier: Tier, columns: int) -> str:
    """A format in words, and why it gets no blocks if it does not."""
    odd = f" ({columns} columns are no whole blocks of {BLOCK})" if columns % BLOCK else ""
    return format_text(format, tier) + odd
