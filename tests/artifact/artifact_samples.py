"""Small artifacts of random weights, and ways to damage them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from penjing.artifact import (
    ArtifactWriter,
    BlockConfig,
    ModelConfig,
    Provenance,
    Source,
    expected_tensors,
)
from penjing.artifact.manifest import hash_of
from penjing.formats import encode
from penjing.spec import WeightFormat, WeightFormatName, canonical_json, preset

CONFIG = ModelConfig(
    family="llama",
    vocab_size=40,
    hidden_size=36,
    head_dim=12,
    max_positions=64,
    norm_eps=1e-5,
    qkv_bias=True,
    blocks=(
        BlockConfig(num_heads=3, num_kv_heads=1, intermediate_size=50),
        BlockConfig(num_heads=3, num_kv_heads=3, intermediate_size=70),
    ),
)


def provenance(format: WeightFormatName = "int4") -> Provenance:
    source = Source(name="random", hash="0" * 64, tensor_bytes=1000)
    return Provenance(source=source, recipe=preset(format), versions={"penjing": "0"})


def random_tensor(shape: tuple[int, ...], generator: np.random.Generator) -> Any:
    return generator.normal(size=shape).astype(np.float32)


def write_artifact(
    path: Path,
    format: WeightFormatName = "int4",
    *,
    config: ModelConfig = CONFIG,
    seed: int = 0,
    force: bool = False,
    files: tuple[Path, ...] = (),
    after: Callable[[str], None] = lambda _: None,
    best: Callable[[str, Any], Any] = lambda _name, _vector: None,
) -> Path:
    """`best`: a vector's values at the best tier, given its name and those at the fast tier."""
    generator = np.random.default_rng(seed)
    with ArtifactWriter(path, config, force=force) as writer:
        for name, role in expected_tensors(config).items():
            tensor = random_tensor(role.shape, generator)
            if role.is_matrix:
                writer.add_matrix(
                    name, encode(tensor, WeightFormat(name=format, group_size=32), "range", name)
                )
            else:
                writer.add_vector(name, tensor, best(name, tensor))
            after(name)
        for file in files:
            writer.add_file(file)
        writer.finish(provenance(format))
    return path


def edit_manifest(path: Path, edit: Callable[[dict[str, Any]], None], *, reseal: bool) -> None:
    """Change the manifest; with `reseal` its hash is made to fit, as a deliberate forger would."""
    file = path / "manifest.json"
    data = json.loads(file.read_text())
    edit(data)
    if reseal:
        data["hash"] = hash_of(data)
    file.write_text(canonical_json(data) + "\n")


def patch_bytes(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)
