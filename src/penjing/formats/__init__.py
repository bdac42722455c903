"""Number grids: quantize, dequantize, pack, unpack. Nothing here knows about models."""

from penjing.formats.affine import Affine, dequantize_affine, quantize_affine
from penjing.formats.encoded import (
    Encoded,
    PartSizes,
    decode,
    encode,
    part_sizes,
    residual_saturation,
)
from penjing.formats.fixed_point import FixedPoint, dequantize_fixed_point, quantize_fixed_point
from penjing.formats.subinteger import (
    SubInteger,
    dequantize_subinteger,
    pack_bits,
    quantize_subinteger,
    unpack_bits,
)

__all__ = [
    "Affine",
    "Encoded",
    "FixedPoint",
    "PartSizes",
    "SubInteger",
    "decode",
    "dequantize_affine",
    "dequantize_fixed_point",
    "dequantize_subinteger",
    "encode",
    "pack_bits",
    "part_sizes",
    "quantize_affine",
    "quantize_fixed_point",
    "quantize_subinteger",
    "residual_saturation",
    "unpack_bits",
]
