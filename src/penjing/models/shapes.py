"""Shapes of published models, by name, for what depends on the shape alone: speed, size, cost.

Numbers are those of each model's config.json. `tiny` is nobody's: it lets a program be tried in a second.
"""

from __future__ import annotations

from penjing.artifact.config import BlockConfig, ModelConfig, RopeConfig
from penjing.errors import SpecError
from penjing.spec import KvFormat


def shape(
    family: str,
    *,
    vocab: int,
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    positions: int,
    theta: float,
    tied: bool = False,
) -> ModelConfig:
    """A decoder whose layers are all alike; biases and norms of heads are those of its family."""
    block = BlockConfig(num_heads=heads, num_kv_heads=kv_heads, intermediate_size=inner)
    return ModelConfig(
        family=family,
        vocab_size=vocab,
        hidden_size=hidden,
        head_dim=head_dim,
        max_positions=positions,
        norm_eps=1e-6 if family.startswith("qwen") else 1e-5,
        rope=RopeConfig(theta=theta),
        tied_head=tied,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        blocks=(block,) * layers,
    )


# fmt: off
SHAPES = {
    "tiny": shape("llama", vocab=512, hidden=256, inner=512, layers=2, heads=4, kv_heads=2, head_dim=64,
                  positions=4096, theta=1e4),
    "qwen2.5-0.5b": shape("qwen2", vocab=151936, hidden=896, inner=4864, layers=24, heads=14, kv_heads=2,
                          head_dim=64, positions=32768, theta=1e6, tied=True),
    "qwen3-0.6b": shape("qwen3", vocab=151936, hidden=1024, inner=3072, layers=28, heads=16, kv_heads=8,
                        head_dim=128, positions=40960, theta=1e6, tied=True),
    "tinyllama-1.1b": shape("llama", vocab=32000, hidden=2048, inner=5632, layers=22, heads=32, kv_heads=4,
                            head_dim=64, positions=2048, theta=1e4),
    "llama-3.2-1b": shape("llama", vocab=128256, hidden=2048, inner=8192, layers=16, heads=32, kv_heads=8,
                          head_dim=64, positions=131072, theta=5e5, tied=True),
    "llama-3.2-3b": shape("llama", vocab=128256, hidden=3072, inner=8192, layers=28, heads=24, kv_heads=8,
                          head_dim=128, positions=131072, theta=5e5, tied=True),
    "mistral-7b": shape("mistral", vocab=32768, hidden=4096, inner=14336, layers=32, heads=32, kv_heads=8,
                        head_dim=128, positions=32768, theta=1e6),
    "llama-3.1-8b": shape("llama", vocab=128256, hidden=4096, inner=14336, layers=32, heads=32, kv_heads=8,
                          head_dim=128, positions=131072, theta=5e5),
    "qwen3-8b": shape("qwen3", vocab=151936, hidden=4096, inner=12288, layers=36, heads=32, kv_heads=8,
                      head_dim=128, positions=40960, theta=1e6),
}
# fmt: on


def find_shape(name: str, kv: KvFormat = "int8") -> ModelConfig:
    """A shape by its name, with keys and values cached in `kv`. Raises SpecError, naming all there are."""
    if name not in SHAPES:
        raise SpecError(f"shape {name!r} is unknown: use {', '.join(SHAPES)}, or the path of a model")
    config = SHAPES[name]
    block = config.blocks[0].model_copy(update={"key_format": kv, "value_format": kv})
    return config.model_copy(update={"blocks": (block,) * len(config.blocks)})
