"""Quantization: techniques that turn a checkpoint's weights into codes and scales."""

from penjing.quantize.walk import quantize_checkpoint

__all__ = ["quantize_checkpoint"]
