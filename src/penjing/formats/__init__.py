"""Number grids: quantize, dequantize, pack, unpack. Nothing here knows about models."""

from penjing.formats.encoded import (
    Encoded,
    PartSizes,
    decode,
    encode,
    part_sizes,
    residual_saturation,
)

__all__ = ["Encoded", "PartSizes", "decode", "encode", "part_sizes", "residual_saturation"]
