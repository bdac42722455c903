"""Formats below whole numbers: values that keep a fraction, and integers narrower than a byte."""

from __future__ import annotations

import math
from dataclasses import dataclass

from penjing.errors import FormatError
from penjing.formats.affine import value_range
from penjing.formats.namespace import Array, namespace


@dataclass(frozen=True, eq=False)
class SubInteger:
    """F(x) = slope x + intercept, kept to `fraction_bits` binary places and bit-packed.

    packed: uint8 [ceil(count * (integer_bits + fraction_bits) / 8)], of values of the given shape.
    """

    packed: Array
    shape: tuple[int, ...]
    slope: float
    intercept: float
    integer_bits: int
    fraction_bits: int


def quantize_subinteger(values: Array, integer_bits: int, fraction_bits: int) -> SubInteger:
    """Scale onto [0, 2^integer_bits) and keep a fraction: F(x) = a x + b, in steps of 2^-fraction_bits.

    The ends of the range map to 0 and to 2^integer_bits - 2^-fraction_bits, both of them codes, so nothing
    is clipped and |x - dequantized| <= 2^-fraction_bits / (2 a). A constant input comes back exactly (as
    float32). Takes a numpy array or torch tensor. Raises FormatError for empty input, NaN or Inf, or a sum of
    bits outside 1..8.
    """
    bits = integer_bits + fraction_bits
    if min(integer_bits, fraction_bits) < 0 or not 1 <= bits <= 8:
        raise FormatError(f"sub-integer grid: {integer_bits} + {fraction_bits} bits must sum to 1..8")
    xp = namespace(values)
    exact = xp.asarray(values, dtype=xp.float64)
    low, high = value_range(exact, 1.0)
    steps = 2.0**fraction_bits
    slope = 1.0 if low == high else (2**bits - 1) / steps / (high - low)
    intercept = -slope * low
    codes = xp.clip(xp.round((slope * exact + intercept) * steps), 0, 2**bits - 1)
    packed = pack_bits(xp.asarray(codes, dtype=xp.uint8), bits)
    return SubInteger(packed, tuple(exact.shape), slope, intercept, integer_bits, fraction_bits)


def dequantize_subinteger(quantized: SubInteger) -> Array:
    """Float32 values of the original shape: (F - intercept) / slope."""
    xp = namespace(quantized.packed)
    bits = quantized.integer_bits + quantized.fraction_bits
    codes = unpack_bits(quantized.packed, bits, math.prod(quantized.shape))
    scaled = xp.asarray(codes, dtype=xp.float64) * 2.0**-quantized.fraction_bits
    values = (scaled - quantized.intercept) / quantized.slope
    return xp.asarray(values, dtype=xp.float32).reshape(quantized.shape)


def pack_bits(codes: Array, bits: int) -> Array:
    """Integers [...] of `bits` bits (1..8) to a uint8 stream: bit j of code i is bit (i * bits + j) of it.

    Bits count from each byte's lowest. Negative codes keep their low bits (two's complement). Raises
    FormatError if a code has no representation in `bits` bits, signed or unsigned.
    """
    xp = namespace(codes)
    flat = codes.reshape(-1)
    if len(flat) and (int(flat.min()) < -(2 ** (bits - 1)) or int(flat.max()) >= 2**bits):
        raise FormatError(f"codes {int(flat.min())}..{int(flat.max())} do not fit in {bits} bits")
    octets = xp.zeros((-(-len(flat) // 8), 8), dtype=xp.uint8)
    octets.reshape(-1)[: len(flat)] = xp.asarray(flat & (2**bits - 1), dtype=xp.uint8)
    packed = xp.zeros((octets.shape[0], bits), dtype=xp.uint8)
    for position in range(8 * bits):
        bit = (octets[:, position // bits] >> (position % bits)) & 1
        packed[:, position // 8] |= bit << (position % 8)
    return packed.reshape(-1)[: -(-len(flat) * bits // 8)]


def unpack_bits(packed: Array, bits: int, count: int, *, signed: bool = False) -> Array:
    """The inverse of `pack_bits`: `count` codes, uint8, or int8 if they are two's complement.

    Raises FormatError if the stream is not exactly as long as `count` codes need.
    """
    xp = namespace(packed)
    if len(packed) != -(-count * bits // 8):
        raise FormatError(f"{len(packed)} bytes do not hold exactly {count} codes of {bits} bits")
    rows = -(-count // 8)
    padded = xp.zeros(rows * bits, dtype=xp.uint8)
    padded[: len(packed)] = packed
    padded = padded.reshape(rows, bits)
    octets = xp.zeros((rows, 8), dtype=xp.uint8)
    for position in range(8 * bits):
        bit = (padded[:, position // 8] >> (position % 8)) & 1
        octets[:, position // bits] |= bit << (position % bits)
    codes = octets.reshape(-1)[:count]
    if not signed:
        return codes
    half = 2 ** (bits - 1)
    return xp.asarray(xp.asarray(codes ^ half, dtype=xp.int32) - half, dtype=xp.int8)
