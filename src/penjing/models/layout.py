"""How a family publishes its tensors: their names, and which of them are fused, one below the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from penjing.artifact.config import ModelConfig, block_tensors, expected_tensors
from penjing.errors import CheckpointShapeError
from penjing.models.families import Family, family_named
from penjing.models.shards import StoredTensor

# Canonical name -> published name. Families without a tensor (a bias, a norm) simply never ask for it.
MODEL_TENSORS = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
BLOCK_TENSORS = {
    "attention_norm": "input_layernorm.weight",
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
    "query_bias": "self_attn.q_proj.bias",
    "key_bias": "self_attn.k_proj.bias",
    "value_bias": "self_attn.v_proj.bias",
    "query_norm": "self_attn.q_norm.weight",
    "key_norm": "self_attn.k_norm.weight",
    "output": "self_attn.o_proj.weight",
    "output_bias": "self_attn.o_proj.bias",
    "feed_forward_norm": "post_attention_layernorm.weight",
    "router": "mlp.gate.weight",
}
FEED_FORWARD_TENSORS = {
    "gate": "gate_proj.weight",
    "gate_bias": "gate_proj.bias",
    "up": "up_proj.weight",
    "up_bias": "up_proj.bias",
    "down": "down_proj.weight",
    "down_bias": "down_proj.bias",
}
HEAD = "lm_head.weight"
# A model of more than text: the prefix of its text model, and of the rest.
TEXT_PREFIXES = {"language_model.": "", "model.language_model.": "model."}
OTHER_PREFIXES = tuple(
    prefix + part for prefix in ("", "model.") for part in ("vision_tower.", "multi_modal_projector.")
)


@dataclass(frozen=True)
class Published:
    """A published tensor: `parts` are canonical names, whose rows follow one another in it."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]


def published_name(canonical: str, family: Family) -> str:
    """The name a tensor has in a checkpoint; in families that fuse tensors, the one it would have."""
    if not canonical.startswith("blocks."):
        return MODEL_TENSORS[canonical]
    _, index, inner = canonical.split(".", 2)
    place, _, last = inner.rpartition(".")
    if last in FEED_FORWARD_TENSORS:
        name = ".".join(part for part in ("mlp", place, FEED_FORWARD_TENSORS[last]) if part)
    else:
        name = {**BLOCK_TENSORS, **family.norm_names}[inner]
    return f"model.layers.{index}.{name}"


def published_tensors(config: ModelConfig) -> list[Published]:
    """Every tensor as the family publishes it, its parts in the order of execution."""
    family, roles = family_named(config.family), expected_tensors(config)
    fused = {
        whole.parts[0]: whole
        for index in range(len(config.blocks))
        for whole in fused_by_family(config, index)
    }
    found: list[Published] = []
    inside = {part for whole in fused.values() for part in whole.parts}
    for name, role in roles.items():
        if name in fused:
            found.append(fused[name])
        elif name not in inside:
            found.append(Published(published_name(name, family), role.shape, (name,)))
    return found


def fused_by_family(config: ModelConfig, index: int) -> Iterator[Published]:
    """The fused tensors of a block, as its family has them."""
    roles, prefix = block_tensors(config, config.blocks[index]), f"blocks.{index}."
    for name, parts in family_named(config.family).fused.items():
        rows = sum(roles[part].shape[0] for part in parts)
        shape = (rows, config.hidden_size)
        yield Published(f"model.layers.{index}.{name}", shape, tuple(prefix + part for part in parts))


def fused_experts(config: ModelConfig, index: int) -> Iterator[Published]:
    """A block's experts as transformers holds them in memory, and some save them."""
    block, layer = config.blocks[index], f"model.layers.{index}.mlp.experts."
    experts = [f"blocks.{index}.experts.{expert}." for expert in range(block.num_experts)]
    inner, hidden = block.intermediate_size, config.hidden_size
    both = tuple(f"{expert}{part}" for expert in experts for part in ("gate", "up"))
    yield Published(f"{layer}gate_up_proj", (len(experts), 2 * inner, hidden), both)
    down = tuple(f"{expert}down" for expert in experts)
    yield Published(f"{layer}down_proj", (len(experts), hidden, inner), down)


def text_tensors(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of the text model, under the names that a model of text alone has."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        prefix = next((prefix for prefix in TEXT_PREFIXES if name.startswith(prefix)), "")
        own_name = TEXT_PREFIXES.get(prefix, "") + name.removeprefix(prefix)
        if not own_name.startswith(OTHER_PREFIXES):
            found[own_name] = tensor
    return found


def split_fused(stored: dict[str, StoredTensor], config: ModelConfig) -> dict[str, StoredTensor]:
    """The same tensors, each part of a fused one by itself; a part is a run of rows of the same file.

    Raises CheckpointShapeError for a fused tensor of another shape, or one whose parts are there as well.
    """
    family, roles = family_named(config.family), expected_tensors(config)
    split = dict(stored)
    for index in range(len(config.blocks)):
        for fused in (*fused_by_family(config, index), *fused_experts(config, index)):
            whole = split.pop(fused.name, None)
            if whole is None:
                continue
            if whole.shape != fused.shape:
                raise CheckpointShapeError(
                    f"{whole.file}: {fused.name} is {list(whole.shape)}, and config.json says "
                    f"{list(fused.shape)}"
                )
            row = 0
            for part in fused.parts:
                name, num_rows = published_name(part, family), roles[part].shape[0]
                if name in split:
                    raise CheckpointShapeError(
                        f"{whole.file}: {name} is stored twice, by itself and in {fused.name}; remove one"
                    )
                split[name] = whole.rows(name, row, num_rows)
                row += num_rows
    return split
