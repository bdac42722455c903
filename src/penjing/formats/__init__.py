"""Number grids: quantize, dequantize, pack, unpack. Nothing here knows about models."""

from penjing.formats.affine import Affine, dequantize_affine, quantize_affine
from penjing.formats.codes import Codes, dequantize, grid_of
from penjing.formats.encoded import Encoded, PartSizes, part_sizes, residual_saturation
from penjing.formats.encoding import decode, encode, tiny_notice
from penjing.formats.fixed_point import FixedPoint, dequantize_fixed_point, quantize_fixed_point
from penjing.formats.grids import Grid
from penjing.formats.packing import pack, unpack
from penjing.formats.subinteger import (
    SubInteger,
    dequantize_subinteger,
    pack_bits,
    quantize_subinteger,
    unpack_bits,
)

__all__ = [
    "Affine",
    "Codes",
    "Encoded",
    "FixedPoint",
    "Grid",
    "PartSizes",
    "SubInteger",
    "decode",
    "dequantize",
    "dequantize_affine",
    "dequantize_fixed_point",
    "dequantize_subinteger",
    "encode",
    "grid_of",
    "pack",
    "pack_bits",
    "part_sizes",
    "quantize_affine",
    "quantize_fixed_point",
    "quantize_subinteger",
    "residual_saturation",
    "tiny_notice",
    "unpack",
    "unpack_bits",
]
