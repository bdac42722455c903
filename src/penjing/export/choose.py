"""One function for every format that can be exported to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from penjing.errors import SpecError
from penjing.export.compressed_tensors import export_compressed_tensors
from penjing.export.conversion import Exported
from penjing.export.gguf.write import export_gguf
from penjing.export.safetensors import export_safetensors
from penjing.spec import FloatFormat, Tier

Target = Literal["safetensors", "gguf", "compressed-tensors"]


def export(
    source: str | Path,
    out: str | Path,
    *,
    to: Target = "safetensors",
    dtype: FloatFormat | None = None,
    tier: Tier | None = None,
    tokenizer: bool = True,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Exported:
    """Write the artifact at `source` for other tools: dequantized, or with its codes (docs/export.md).

    to: `safetensors` and `compressed-tensors` are directories in Hugging Face layout, `gguf` is one file.
    dtype: of what is dequantized, and of scales; GGUF decides itself. tier: the best one, unless said.
    tokenizer: whether GGUF gets the artifact's own. Raises SpecError for options that do not go together, and
    what the function of each format raises.
    """
    if to != "gguf" and not tokenizer:
        raise SpecError("without a tokenizer goes with gguf only; remove the tokenizer's files yourself")
    match to:
        case "safetensors":
            return export_safetensors(
                source, out, dtype=dtype or "bf16", tier=tier, force=force, progress=progress
            )
        case "compressed-tensors":
            if dtype == "fp32":
                raise SpecError("compressed-tensors has scales of fp16 or bf16; choose one of them")
            return export_compressed_tensors(
                source, out, dtype=dtype or "fp16", tier=tier, force=force, progress=progress
            )
        case "gguf":
            if dtype is not None:
                raise SpecError("gguf decides the type of every tensor itself; leave the dtype out")
            return export_gguf(source, out, tier=tier, tokenizer=tokenizer, force=force, progress=progress)
    raise SpecError(f"nothing is exported to {to!r}; choose safetensors, gguf or compressed-tensors")
