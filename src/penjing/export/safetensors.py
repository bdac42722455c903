"""A dequantized checkpoint in Hugging Face layout: for tools that cannot read the artifact.

The weights are those the artifact serves, rounded once to the dtype asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.artifact import Artifact
from penjing.export.conversion import Exported, Ledger
from penjing.export.source import chosen_tier, text_files
from penjing.export.steps import tensor_text
from penjing.formats import decode
from penjing.models.families import family_named
from penjing.models.layout import Published, published_tensors
from penjing.models.publishing import rebuild_config
from penjing.models.weights_file import (
    DTYPES,
    WeightsTensor,
    rounded,
    write_directory,
)
from penjing.spec import FloatFormat, Tier


def export_safetensors(
    source: str | Path,
    out: str | Path,
    *,
    dtype: FloatFormat = "bf16",
    tier: Tier | None = None,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Exported:
    """Write the artifact at `source` as a checkpoint at `out`: weights, config.json, tokenizer.

    Raises ArtifactError, OutputError, UnsupportedConfigError (blocks of different widths), SpecError (a tier
    that the artifact lacks), FormatError (a weight beyond fp16's range).
    """
    out, artifact = Path(out), Artifact.open(source)
    chosen, ledger = chosen_tier(artifact, tier), Ledger()
    config = rebuild_config(artifact.config, DTYPES[dtype][1], artifact.path)
    tensors = [
        dequantized(artifact, tensor, dtype, chosen, ledger) for tensor in published_tensors(artifact.config)
    ]
    write_directory(
        out, config, tensors, text_files(artifact), source=artifact.hash, force=force, progress=progress
    )
    return Exported(out, ledger.conversions(), tuple(embedding_notes(artifact, dtype)))


def dequantized(
    artifact: Artifact, tensor: Published, dtype: FloatFormat, tier: Tier, ledger: Ledger
) -> WeightsTensor:
    """A published tensor in a float dtype."""

    def runs() -> Iterator[NDArray[Any]]:
        for part in tensor.parts:
            name = f"{artifact.path}: {part}"
            if len(tensor.shape) == 1:
                yield rounded(artifact.vector(part, tier), dtype, name)
                continue
            encoded = artifact.matrix(part)
            loss = ledger.open(tensor_text(encoded, tier), dtype)
            yield rounded(decode(encoded, tier), dtype, name, loss)

    return WeightsTensor(tensor.name, DTYPES[dtype][0], tensor.shape, runs)


def embedding_notes(artifact: Artifact, dtype: FloatFormat) -> Iterator[str]:
    """Families that scale their embedding round the scale to the dtype they are loaded in."""
    config = artifact.config
    if not family_named(config.family).scales_embedding:
        return
    loaded = float(DTYPES[dtype][2](np.float32(math.sqrt(config.hidden_size))))
    if loaded != config.embedding_scale:
        yield (
            f"its embedding is scaled by {config.embedding_scale:.6g}, and by {loaded:.6g} in a model that "
            f"is loaded in {dtype}"
        )
