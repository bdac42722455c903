"""Quantization: techniques that turn a checkpoint's weights into codes and scales."""

from __future__ import annotations

from penjing.quantize.walk import quantize_checkpoint
from penjing.verbs import make_callable

__all__ = ["quantize_checkpoint"]

make_callable(__name__, "penjing.quantize.walk", "quantize_checkpoint")
