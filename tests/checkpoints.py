"""Small random checkpoints in the published layout, written without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

BASE: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 100,
    "vocab_size": 50,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_theta": 10000.0,
}
LLAMA = BASE | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
MISTRAL = BASE | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 64}
QWEN2 = BASE | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True}
QWEN3 = BASE | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}


def published_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the family publishes them, written out independently of the family table."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    kind = config["model_type"]
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        projections = {"q_proj": (query, hidden), "k_proj": (key, hidden), "v_proj": (key, hidden)}
        for name, shape in projections.items():
            shapes[f"{layer}self_attn.{name}.weight"] = shape
            if kind == "qwen2" or config.get("attention_bias"):
                shapes[f"{layer}self_attn.{name}.bias"] = shape[:1]
        shapes[f"{layer}self_attn.o_proj.weight"] = (hidden, query)
        if config.get("attention_bias"):
            shapes[f"{layer}self_attn.o_proj.bias"] = (hidden,)
        if kind == "qwen3":
            shapes[f"{layer}self_attn.q_norm.weight"] = (config["head_dim"],)
            shapes[f"{layer}self_attn.k_norm.weight"] = (config["head_dim"],)
        for name, shape in {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}.items():
            shapes[f"{layer}mlp.{name}_proj.weight"] = shape
            if config.get("mlp_bias"):
                shapes[f"{layer}mlp.{name}_proj.bias"] = shape[:1]
        shapes[f"{layer}input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def random_tensors(config: dict[str, Any], dtype: Any = np.float32, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Normal weights of a sensible size for every published tensor."""
    generator = np.random.default_rng(seed)
    return {
        name: (generator.normal(size=shape) * 0.1 + (len(shape) == 1)).astype(dtype)
        for name, shape in published_shapes(config).items()
    }


def write_checkpoint(
    directory: Path,
    config: dict[str, Any] = LLAMA,
    *,
    dtype: Any = np.float32,
    seed: int = 0,
    num_shards: int = 1,
    tensors: dict[str, NDArray[Any]] | None = None,
) -> Path:
    """Write config.json and one safetensors file, or an index and several."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    tensors = random_tensors(config, dtype, seed) if tensors is None else tensors
    if num_shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    names, weight_map = list(tensors), {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        mine = names[shard::num_shards]
        save_file({name: tensors[name] for name in mine}, directory / file)
        weight_map |= dict.fromkeys(mine, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory
