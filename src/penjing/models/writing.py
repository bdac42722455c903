"""A checkpoint written: config.json, weights and text files, as other programs read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.config import ModelConfig
from penjing.models.checkpoint import Checkpoint
from penjing.models.layout import Published, published_tensors
from penjing.models.publishing import rebuild_config
from penjing.models.tokenizer import COPIED_FILES
from penjing.models.weights_file import DTYPES, WeightsTensor, rounded, write_directory
from penjing.spec import FloatFormat


def write_checkpoint(
    out: Path,
    config: ModelConfig,
    tensors: Mapping[str, Any],
    *,
    like: Checkpoint | None = None,
    dtype: FloatFormat = "fp32",
    force: bool = False,
) -> Checkpoint:
    """Write tensors by canonical name (numpy arrays or torch tensors, float32) as a checkpoint at `out`.

    like: whose tokenizer, chat template and generation settings come along. Transformers loads it, unless
    blocks differ in width: then only Penjing does. Raises OutputError, FormatError for what `dtype` cannot
    hold, UnsupportedConfigError for what config.json cannot say.
    """
    settings = rebuild_config(config, DTYPES[dtype][1], out, own_widths=True)
    written = [weights_tensor(tensor, tensors, dtype) for tensor in published_tensors(config)]
    files = [] if like is None else [like.path / name for name in COPIED_FILES]
    present = [file for file in files if file.is_file()]
    write_directory(out, settings, written, present, source="" if like is None else like.hash, force=force)
    return Checkpoint.open(out)


def weights_tensor(published: Published, tensors: Mapping[str, Any], dtype: FloatFormat) -> WeightsTensor:
    """A tensor as the family publishes it."""

    def runs() -> Iterator[NDArray[Any]]:
        for part in published.parts:
            tensor = tensors[part]
            array = tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)
            yield rounded(np.asarray(array, np.float32), dtype, part)

    return WeightsTensor(published.name, DTYPES[dtype][0], published.shape, runs)
