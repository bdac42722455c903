"""Artifacts written in formats that other tools read."""

from __future__ import annotations

from penjing.export.compressed_tensors import export_compressed_tensors
from penjing.export.conversion import Conversion, Exported
from penjing.export.gguf.write import export_gguf
from penjing.export.safetensors import export_safetensors
from penjing.verbs import make_callable

__all__ = ["Conversion", "Exported", "export_compressed_tensors", "export_gguf", "export_safetensors"]

make_callable(__name__, "penjing.export.choose", "export")
