"""Artifacts written in formats that other tools read."""

from __future__ import annotations

from penjing.export.safetensors import export_safetensors
from penjing.verbs import make_callable

__all__ = ["export_safetensors"]

make_callable(__name__, "penjing.export.safetensors", "export_safetensors")
