"""Costs of models as they are stored."""

from __future__ import annotations

import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
from checkpoints import LLAMA, random_tensors, write_checkpoint

from penjing.artifact import Artifact
from penjing.models import Checkpoint
from penjing.optimize.profile import measure_profile


def test_every_tensor_counts_in_its_own_dtype(tmp_path: Path) -> None:
    """Norms in fp32 beside matrices in bf16, as published models mix them."""
    tensors = {
        name: tensor.astype(ml_dtypes.bfloat16 if tensor.ndim == 2 else np.float32)
        for name, tensor in random_tensors(LLAMA).items()
    }
    path = write_checkpoint(tmp_path / "mixed", LLAMA, tensors=tensors)
    cost = measure_profile(path, 64).cost
    assert cost.weight_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert cost.weight_bytes == Checkpoint.open(path).tensor_bytes
    first = [tensor for name, tensor in tensors.items() if ".layers.0." in name]
    assert cost.blocks[0].weight_bytes == sum(tensor.nbytes for tensor in first)
    assert cost.context_tokens == 64


def test_an_artifact_counts_as_stored(layered: Artifact, checkpoint: Path) -> None:
    before, after = measure_profile(str(checkpoint)), measure_profile(layered.path)
    assert after.cost.parameters == before.cost.parameters
    stored = sum((layered.path / name).stat().st_size for name in ("tensors.bin", "residual.bin"))
    assert 0 < stored - after.cost.weight_bytes <= 1024  # two headers
    assert after.roofline.decode_tokens_per_second > 0


def test_profiling_makes_nothing(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "another name")
    before = set(cache.rglob("*"))
    measure_profile(copy)
    assert set(cache.rglob("*")) == before
