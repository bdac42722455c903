"""Artifacts written in formats that other tools read."""

from penjing.export.safetensors import export_safetensors

__all__ = ["export_safetensors"]
