"""Writes the peers' models at one shape, with random weights. Runs in the peers' environment.

    python prepare.py CONFIG.json DIRECTORY KIND...

KIND: checkpoint (bf16, Hugging Face layout), openvino (int4, symmetric, groups of 128, made of the
checkpoint), q4_0 and q8_0 (GGUF). What is there already is kept; everything appears under its name when it is
whole.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

GROUP_SIZE = 128
BLOCK_ELEMENTS = 32
BLOCK_BYTES = {"Q4_0": 18, "Q8_0": 34}  # a float16 scale, then codes
BLOCK_SCALES = {"Q4_0": 0.004, "Q8_0": 0.0003}  # keep activations of order one


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    directory = Path(sys.argv[2])
    for kind in sys.argv[3:]:
        target = directory / FILES[kind]
        if target.exists():
            continue
        partial = target.with_name(f"partial-{target.name}")
        remove(partial)
        print(f"peers: writing {target}", file=sys.stderr, flush=True)
        WRITERS[kind](config, partial)
        partial.rename(target)


def remove(path: Path) -> None:
    """What an interrupted run left."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def write_checkpoint(config: dict[str, Any], path: Path) -> None:
    """Weights as transformers initializes them."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**config), dtype=torch.bfloat16)
    model.save_pretrained(path)


def write_openvino(_: dict[str, Any], path: Path) -> None:
    """As `optimum-cli export openvino --weight-format int4 --sym --group-size 128 --ratio 1.0`."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    form = OVWeightQuantizationConfig(bits=4, sym=True, group_size=GROUP_SIZE, ratio=1.0)
    checkpoint = path.with_name(FILES["checkpoint"])
    model = OVModelForCausalLM.from_pretrained(
        checkpoint, export=True, compile=False, quantization_config=form
    )
    model.save_pretrained(path)


def write_q4_0(config: dict[str, Any], path: Path) -> None:
    """All matrices in Q4_0 but the head, in Q8_0: ours is int8 as well."""
    write_gguf(config, path, "Q4_0", "Q8_0")


def write_q8_0(config: dict[str, Any], path: Path) -> None:
    """All matrices in Q8_0."""
    write_gguf(config, path, "Q8_0", "Q8_0")


def write_gguf(config: dict[str, Any], path: Path, matrices: str, head: str) -> None:
    """Stream every tensor; no tokenizer."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(getattr(gguf.LlamaFileType, f"MOSTLY_{matrices}"))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("no_vocab")
    tensors = [(name, shape, head if name == "output.weight" else matrices) for name, shape in shapes(config)]
    for name, shape, format in tensors:
        kind = gguf.GGMLQuantizationType[format if len(shape) == 2 else "F32"]
        dtype = np.dtype(np.uint8 if len(shape) == 2 else np.float32)
        stored = stored_shape(shape, format)
        writer.add_tensor_info(name, stored, dtype, math.prod(stored) * dtype.itemsize, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    bits = np.random.SFC64(0)
    for _, shape, format in tensors:
        writer.write_tensor_data(random_blocks(bits, shape, format))
    writer.close()


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama in llama.cpp's terms."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    yield "token_embd.weight", (vocab, hidden)
    for index in range(config["num_hidden_layers"]):
        block = {"attn_norm": (hidden,), "ffn_norm": (hidden,), "attn_q": (query, hidden)}
        block |= {"attn_k": (key, hidden), "attn_v": (key, hidden), "attn_output": (hidden, query)}
        block |= {"ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner)}
        for name, shape in block.items():
            yield f"blk.{index}.{name}.weight", shape
    yield "output_norm.weight", (hidden,)
    yield "output.weight", (vocab, hidden)


def stored_shape(shape: tuple[int, ...], format: str) -> tuple[int, ...]:
    """Of a matrix in bytes; of a norm in float32 elements."""
    return shape if len(shape) == 1 else (shape[0], shape[1] // BLOCK_ELEMENTS * BLOCK_BYTES[format])


def random_blocks(bits: np.random.SFC64, shape: tuple[int, ...], format: str) -> np.ndarray:
    """Random codes under one scale; norms of ones."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    stored = stored_shape(shape, format)
    count = math.prod(stored)
    data = np.asarray(bits.random_raw(-(-count // 8))).view(np.uint8)[:count].reshape(-1, BLOCK_BYTES[format])
    data[:, :2] = np.frombuffer(np.float16(BLOCK_SCALES[format]).tobytes(), np.uint8)
    return data.reshape(stored)


FILES = {
    "checkpoint": "checkpoint",
    "openvino": "openvino-int4-g128",
    "q4_0": "q4_0.gguf",
    "q8_0": "q8_0.gguf",
}
WRITERS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "checkpoint": write_checkpoint,
    "openvino": write_openvino,
    "q4_0": write_q4_0,
    "q8_0": write_q8_0,
}

if __name__ == "__main__":
    main()
