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
GEMMA3 = BASE | {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_activation": "gelu_pytorch_tanh",
    "num_hidden_layers": 3,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 20,
    "sliding_window": 24,
    "sliding_window_pattern": 3,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
PHI3 = BASE | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "pad_token_id": None}
QWEN3_MOE = BASE | {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_hidden_layers": 3,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "norm_topk_prob": True,
    "mlp_only_layers": [1],
}


def published_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the family publishes them, written out independently of the family table."""
    hidden = config["hidden_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    kind = config["model_type"]
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        projections = {"q_proj": (query, hidden), "k_proj": (key, hidden), "v_proj": (key, hidden)}
        if kind == "phi3":
            projections = {"qkv_proj": (query + 2 * key, hidden)}
        for name, shape in projections.items():
            shapes[f"{layer}self_attn.{name}.weight"] = shape
            if kind == "qwen2" or config.get("attention_bias"):
                shapes[f"{layer}self_attn.{name}.bias"] = shape[:1]
        shapes[f"{layer}self_attn.o_proj.weight"] = (hidden, query)
        if config.get("attention_bias"):
            shapes[f"{layer}self_attn.o_proj.bias"] = (hidden,)
        if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
            shapes[f"{layer}self_attn.q_norm.weight"] = (config["head_dim"],)
            shapes[f"{layer}self_attn.k_norm.weight"] = (config["head_dim"],)
        shapes |= published_feed_forward(config, index, f"{layer}mlp.")
        shapes[f"{layer}input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}post_attention_layernorm.weight"] = (hidden,)
        if kind == "gemma3_text":
            shapes[f"{layer}pre_feedforward_layernorm.weight"] = (hidden,)
            shapes[f"{layer}post_feedforward_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def published_feed_forward(config: dict[str, Any], index: int, prefix: str) -> dict[str, tuple[int, ...]]:
    """Those of one layer's feed-forward, or of its experts."""
    hidden, inner, kind = config["hidden_size"], config["intermediate_size"], config["model_type"]
    if kind == "phi3":
        return {
            f"{prefix}gate_up_proj.weight": (2 * inner, hidden),
            f"{prefix}down_proj.weight": (hidden, inner),
        }
    sparse = kind == "qwen3_moe" and (index + 1) % config.get("decoder_sparse_step", 1) == 0
    if sparse and index not in config["mlp_only_layers"]:
        inner, experts = config["moe_intermediate_size"], config["num_experts"]
        shapes: dict[str, tuple[int, ...]] = {f"{prefix}gate.weight": (experts, hidden)}
        prefixes = [f"{prefix}experts.{expert}." for expert in range(experts)]
    else:
        shapes, prefixes = {}, [prefix]
    for place in prefixes:
        for name, shape in {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}.items():
            shapes[f"{place}{name}_proj.weight"] = shape
            if config.get("mlp_bias"):
                shapes[f"{place}{name}_proj.bias"] = shape[:1]
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
