"""Units taken out for good: smaller tensors and the configuration that goes with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from penjing.artifact.config import ModelConfig, block_tensors, expected_tensors
from penjing.models.axes import scaled_norm, select
from penjing.models.block import Weights, linear
from penjing.models.torch_model import TorchModel
from penjing.prune.axes import check_dense, heads_of_groups
from penjing.prune.plan import Plan
from penjing.prune.walk import embedded, float_weights


def remove(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    plan: Plan,
    norm_energies: Mapping[str, Tensor] | None = None,
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """What is left of a model (tensors float32, by canonical name): its shape, and its tensors, copied.

    norm_energies: of `norm_energies`, for plans that narrow the hidden states. A norm divides by the mean
    square of what is left, which is another number unless the removed elements were like the rest: its
    weight makes up for that. Without them all elements are taken to be alike. An embedding scale that its
    family derives from the width follows the new width, and every branch follows the embedding. Raises
    UnsupportedConfigError for experts.
    """
    check_dense(config)
    smaller, hidden = plan.config(config), torch.tensor(plan.hidden)
    source_names, result = names_of_source(config, smaller, plan), {}
    for name, source in source_names.items():
        kept = {"hidden": hidden}
        if name.startswith("blocks."):
            block = plan.blocks[int(name.split(".")[1])]
            kept["inner"] = torch.tensor(block.channels)
            kept |= heads_of_groups(config, config.blocks[block.index], torch.tensor(block.groups))
        result[name] = select(tensors[source], source.rpartition(".")[2], kept).clone()
    if norm_energies is not None and len(hidden) < config.hidden_size:
        for name, source in source_names.items():
            if source in norm_energies:
                energies = norm_energies[source]
                gain = (energies[hidden].mean() / energies.mean()).sqrt()
                result[name] = scaled_norm(result[name], config.norm_offset, gain)
    return follow_embedding_scale(config, smaller, result)


def names_of_source(config: ModelConfig, smaller: ModelConfig, plan: Plan) -> dict[str, str]:
    """Canonical names after removal to those before."""
    names = {name: name for name in expected_tensors(smaller) if not name.startswith("blocks.")}
    for index, block in enumerate(plan.blocks):
        for name in block_tensors(config, config.blocks[block.index]):
            names[f"blocks.{index}.{name}"] = f"blocks.{block.index}.{name}"
    return names


def follow_embedding_scale(
    config: ModelConfig, smaller: ModelConfig, tensors: dict[str, Tensor]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The root of the hidden size as embedding scale, where the family (Gemma) has it.

    The whole residual stream shrinks with it, branches by their last norms; the norms that read it undo that.
    """
    if config.embedding_scale == 1.0 or smaller.hidden_size == config.hidden_size:
        return smaller, tensors
    scale = math.sqrt(smaller.hidden_size)
    for name, tensor in tensors.items():
        if name.endswith((".post_attention_norm", ".post_feed_forward_norm")):
            gain = scale / config.embedding_scale
            tensors[name] = scaled_norm(tensor, config.norm_offset, gain)
    return smaller.model_copy(update={"embedding_scale": scale}), tensors


def norm_energies(config: ModelConfig, tensors: Mapping[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """The mean square of every element that every norm of hidden states reads, [hidden], by canonical name.

    tokens: int64 [sequences, length].
    """
    model = TorchModel(config, tensors.__getitem__, tokens.shape[1])
    chunks = embedded(model, tokens)
    energies: dict[str, Tensor] = {}

    def add(name: str, states: Tensor) -> None:
        squares = states.square().flatten(0, -2).sum(0) / tokens.numel()
        energies[name] = energies.get(name, torch.zeros(())) + squares

    for index in range(len(config.blocks)):
        weights, prefix = float_weights(model, index), f"blocks.{index}."

        def record(weights: Weights, name: str, inputs: Tensor, prefix: str = prefix) -> Tensor:
            outputs = linear(weights, name, inputs)
            if config.post_norms and name in ("output", "down"):
                norm = "post_attention_norm" if name == "output" else "post_feed_forward_norm"
                add(prefix + norm, outputs)
            return outputs

        block = replace(model.block(index), linear=record)
        for place, chunk in enumerate(chunks):
            add(f"{prefix}attention_norm", chunk)
            attended = block.attention(weights, block.attention_input(weights, chunk))
            middle = block.after_attention(weights, chunk, attended)
            add(f"{prefix}feed_forward_norm", middle)
            outputs = block.feed_forward(weights, block.feed_forward_input(weights, middle))
            chunks[place] = block.after_feed_forward(weights, middle, outputs)
    for chunk in chunks:
        add("final_norm", chunk)
    return energies
