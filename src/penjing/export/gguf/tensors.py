"""The tensors of a GGUF file: llama.cpp's names, the type of each, and where the bytes come from."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from penjing.artifact import Artifact, ModelConfig, expected_tensors
from penjing.export.conversion import Ledger
from penjing.export.gguf.blocks import common_type, halves, pack, source_text, type_of
from penjing.export.gguf.file import FileTensor
from penjing.export.gguf.rope import rope_factors
from penjing.export.steps import pieces
from penjing.formats import Encoded, decode, dequantize, unpack
from penjing.formats.packing import format_of
from penjing.models.layout import Published
from penjing.spec import Tier

MODEL_NAMES = {"embedding": "token_embd.weight", "final_norm": "output_norm.weight", "head": "output.weight"}
BLOCK_NAMES = {
    "attention_norm": "attn_norm.weight",
    "query": "attn_q.weight",
    "key": "attn_k.weight",
    "value": "attn_v.weight",
    "query_bias": "attn_q.bias",
    "key_bias": "attn_k.bias",
    "value_bias": "attn_v.bias",
    "query_norm": "attn_q_norm.weight",
    "key_norm": "attn_k_norm.weight",
    "output": "attn_output.weight",
    "output_bias": "attn_output.bias",
    "feed_forward_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "gate_bias": "ffn_gate.bias",
    "up": "ffn_up.weight",
    "up_bias": "ffn_up.bias",
    "down": "ffn_down.weight",
    "down_bias": "ffn_down.bias",
    "router": "ffn_gate_inp.weight",
    "post_attention_norm": "post_attention_norm.weight",
    "post_feed_forward_norm": "post_ffw_norm.weight",
}
EXPERTS = {"gate": "ffn_gate_exps.weight", "up": "ffn_up_exps.weight", "down": "ffn_down_exps.weight"}
PHI3_FUSED = {("query", "key", "value"): "attn_qkv.weight", ("gate", "up"): "ffn_up.weight"}
FLOAT_TYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
# Families that llama.cpp rotates by neighbouring elements, where checkpoints rotate halves of a head.
INTERLEAVED = ("llama", "mistral")


def file_tensors(artifact: Artifact, tier: Tier, ledger: Ledger) -> list[FileTensor]:
    """Every tensor of the file. Conversions are entered in the ledger while their bytes are made."""
    config = artifact.config
    tensors = [
        matrix(artifact, whole, tier, ledger) if len(whole.shape) > 1 else vector(artifact, whole, tier)
        for whole in named_tensors(config)
    ]
    return tensors + [constant(name, values) for name, values in rope_factors(config).items()]


def named_tensors(config: ModelConfig) -> Iterator[Published]:
    """All tensors under llama.cpp's names, in the order of execution."""
    roles = expected_tensors(config)
    fused = PHI3_FUSED if config.family == "phi3" else {}
    inside = {part for parts in fused for part in parts[1:]}
    for name, role in roles.items():
        if not name.startswith("blocks."):
            yield Published(MODEL_NAMES[name], role.shape, (name,))
            continue
        _, index, inner = name.split(".", 2)
        prefix, block = f"blk.{index}.", config.blocks[int(index)]
        if inner.startswith("experts."):
            _, expert, part = inner.split(".")
            if expert == "0":
                parts = tuple(f"blocks.{index}.experts.{each}.{part}" for each in range(block.num_experts))
                yield Published(prefix + EXPERTS[part], (block.num_experts, *role.shape), parts)
            continue
        together = next((parts for parts in fused if parts[0] == inner), None)
        if together is not None:
            parts = tuple(f"blocks.{index}.{part}" for part in together)
            rows = sum(roles[part].shape[0] for part in parts)
            yield Published(prefix + fused[together], (rows, role.shape[1]), parts)
        elif inner not in inside:
            yield Published(prefix + BLOCK_NAMES[inner], role.shape, (name,))


def matrix(artifact: Artifact, whole: Published, tier: Tier, ledger: Ledger) -> FileTensor:
    """A matrix, several in one, or a stack of experts."""
    types = {own_type(artifact.matrix(part), tier) for part in whole.parts}
    # Routers decide, and llama.cpp would round what they read to the type of a half-precision matrix.
    target = "F32" if whole.parts[0].endswith("router") else common_type(types)

    def runs() -> Iterator[NDArray[np.uint8]]:
        for part in whole.parts:
            name = f"{artifact.path}: {part}"
            packed = np.concatenate(list(packed_rows(artifact.matrix(part), tier, target, name, ledger)))
            yield rotated(packed, artifact.config, part)

    return FileTensor(whole.name, whole.shape, target, runs)


def own_type(encoded: Encoded, tier: Tier) -> str:
    """The type for a matrix by itself."""
    if encoded.format in FLOAT_TYPES:
        return FLOAT_TYPES[encoded.format]
    return type_of(format_of(encoded), tier, encoded.columns)


def packed_rows(
    encoded: Encoded, tier: Tier, target: str, name: str, ledger: Ledger
) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a matrix's rows, a run of rows at a time."""
    if encoded.format in FLOAT_TYPES:
        yield float_rows(encoded, target, name, ledger)
        return
    loss = ledger.open(source_text(format_of(encoded), tier, encoded.columns), target)
    for piece in pieces(unpack(encoded)):
        data, written = pack(piece, tier, target, name)
        loss.add(dequantize(piece, tier), written)
        yield data


def float_rows(encoded: Encoded, target: str, name: str, ledger: Ledger) -> NDArray[np.uint8]:
    """A matrix in its own dtype, or a wider one."""
    meant = decode(encoded)
    if target == "BF16":
        written = meant.astype(ml_dtypes.bfloat16)
    else:
        written = halves(meant, name) if target == "F16" else meant.astype("<f4")
    ledger.open(encoded.format, target).add(meant, written.astype(np.float32))
    return written.view(np.uint8)


def rotated(rows: NDArray[np.uint8], config: ModelConfig, name: str) -> NDArray[np.uint8]:
    """Rows of queries and keys in llama.cpp's order: element i of a head and element i + n / 2 side by side.

    Rows are bytes: of a matrix's row, or of a bias's element.
    """
    part = name.rpartition(".")[2].removesuffix("_bias")
    if config.family not in INTERLEAVED or part not in ("query", "key"):
        return rows
    halved = rows.reshape(-1, 2, config.head_dim // 2, rows.shape[1])
    return np.ascontiguousarray(halved.swapaxes(1, 2)).reshape(rows.shape)


def vector(artifact: Artifact, whole: Published, tier: Tier) -> FileTensor:
    """A norm, with what families add to it, or a bias."""
    (name,) = whole.parts

    def runs() -> Iterator[NDArray[np.uint8]]:
        values = artifact.vector(name, tier)
        if name.endswith("norm"):
            values = values + np.float32(artifact.config.norm_offset)
        rows = np.ascontiguousarray(values, "<f4").view(np.uint8).reshape(-1, 4)
        yield rotated(rows, artifact.config, name)

    return FileTensor(whole.name, whole.shape, "F32", runs)


def constant(name: str, values: tuple[float, ...]) -> FileTensor:
    """Numbers of the configuration that are a tensor in the file."""
    array = np.array(values, "<f4")
    return FileTensor(name, array.shape, "F32", lambda: iter([array.view(np.uint8)]))
