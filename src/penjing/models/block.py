"""One decoder block in torch, in steps that stop before every matrix.

The same for every family: what differs is in the configuration. Steps are pure functions of weights, by their
names inside the block, and of hidden states float32 [sequences, length, ...] whose positions begin at 0. A
matrix computes in its own dtype, and all else in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from penjing.artifact.config import BlockConfig, ModelConfig, RopeConfig
from penjing.artifact.rope import inverse_frequencies

Weights = Mapping[str, Tensor]
Linear = Callable[[Weights, str, Tensor], Tensor]


def linear(weights: Weights, name: str, inputs: Tensor) -> Tensor:
    """Inputs [..., K] through the matrix `name` and its bias, if it has one; float32 [..., N]."""
    matrix, bias = weights[name], weights.get(f"{name}_bias")
    outputs = functional.linear(inputs.to(matrix.dtype), matrix).float()
    return outputs if bias is None else outputs + bias


@dataclass(frozen=True, eq=False)
class Block:
    """How one decoder block computes.

    rotation: cosines and sines float32 [2, positions, pairs] of its rotary embedding (`rotation`). linear:
    how a matrix is applied; one that rounds its inputs stands for the engine.
    """

    config: ModelConfig
    block: BlockConfig
    rotation: Tensor
    linear: Linear = linear

    def norm(self, weight: Tensor, hidden: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps) x (offset + weight), over the last dimension."""
        scale = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.config.norm_eps)
        return hidden * scale * (weight + self.config.norm_offset)

    def attention_input(self, weights: Weights, hidden: Tensor) -> Tensor:
        """What query, key and value read."""
        return self.norm(weights["attention_norm"], hidden)

    def attention(self, weights: Weights, inputs: Tensor) -> Tensor:
        """What `output` reads, [sequences, length, heads x head_dim], given what `query` reads."""
        query = self.heads(weights, "query", inputs, self.block.num_heads)
        key = self.heads(weights, "key", inputs, self.block.num_kv_heads)
        value = self.split(self.linear(weights, "value", inputs), self.block.num_kv_heads)
        shared = self.block.num_heads // self.block.num_kv_heads
        attended = self.attend(query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1))
        return attended.transpose(1, 2).flatten(2)

    def heads(self, weights: Weights, name: str, inputs: Tensor, count: int) -> Tensor:
        """Queries or keys, normed where the family norms them, and rotated: [sequences, heads, length, d]."""
        parts = self.split(self.linear(weights, name, inputs), count)
        if self.config.qk_norm:
            parts = self.norm(weights[f"{name}_norm"], parts)
        return rotate(parts, self.rotation)

    def split(self, outputs: Tensor, count: int) -> Tensor:
        """[sequences, length, heads x d] to [sequences, heads, length, d]."""
        return outputs.view(*outputs.shape[:2], count, self.config.head_dim).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention, within the block's window and under its soft cap if it has them."""
        config, length = self.config, query.shape[2]
        scale = float((config.attention_scalar or config.head_dim) ** -0.5)
        window, cap = self.block.sliding_window, config.attention_softcap
        if cap is None and (window is None or window >= length):
            return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        if window is not None:
            seen &= ~torch.ones(length, length, dtype=torch.bool).tril(-window)
        if cap is None:
            return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)
        scores = cap * torch.tanh(query @ key.transpose(-1, -2) * (scale / cap))
        return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value

    def after_attention(self, weights: Weights, hidden: Tensor, attended: Tensor) -> Tensor:
        """The residual stream after attention."""
        outputs = self.linear(weights, "output", attended)
        if self.config.post_norms:
            outputs = self.norm(weights["post_attention_norm"], outputs)
        return hidden + outputs

    def feed_forward_input(self, weights: Weights, hidden: Tensor) -> Tensor:
        """What gate and up, or the router and the experts, read."""
        return self.norm(weights["feed_forward_norm"], hidden)

    def inner(self, weights: Weights, inputs: Tensor, expert: str = "") -> Tensor:
        """What `down` reads; `expert`: the prefix of an expert's names."""
        gate = self.linear(weights, f"{expert}gate", inputs)
        if self.config.activation == "silu":
            active = functional.silu(gate)
        else:
            active = functional.gelu(gate, approximate="tanh")
        return active * self.linear(weights, f"{expert}up", inputs)

    def route(self, weights: Weights, inputs: Tensor) -> Tensor:
        """The share of each expert in each token's output, float32 [..., experts]; 0 where it is not used."""
        chances = functional.linear(inputs, weights["router"].float()).softmax(-1)
        order = chances.sort(dim=-1, descending=True, stable=True).indices
        chosen = order[..., : self.block.experts_per_token]
        shares = torch.zeros_like(chances).scatter(-1, chosen, chances.gather(-1, chosen))
        return shares / shares.sum(-1, keepdim=True) if self.block.normalize_experts else shares

    def feed_forward(self, weights: Weights, inputs: Tensor) -> Tensor:
        """The feed-forward of what gate and up read, dense or by experts."""
        if self.block.feed_forward == "dense":
            return self.linear(weights, "down", self.inner(weights, inputs))
        shares, flat = self.route(weights, inputs).flatten(0, -2), inputs.flatten(0, -2)
        outputs = torch.zeros_like(flat)
        for expert in range(self.block.num_experts):
            rows = torch.nonzero(shares[:, expert]).flatten()
            if len(rows):
                prefix = f"experts.{expert}."
                answer = self.linear(weights, f"{prefix}down", self.inner(weights, flat[rows], prefix))
                outputs[rows] += answer * shares[rows, expert, None]
        return outputs.view_as(inputs)

    def after_feed_forward(self, weights: Weights, hidden: Tensor, outputs: Tensor) -> Tensor:
        """The residual stream after the feed-forward."""
        if self.config.post_norms:
            outputs = self.norm(weights["post_feed_forward_norm"], outputs)
        return hidden + outputs

    def __call__(self, weights: Weights, hidden: Tensor) -> Tensor:
        """The whole block: hidden states to hidden states."""
        attended = self.attention(weights, self.attention_input(weights, hidden))
        hidden = self.after_attention(weights, hidden, attended)
        outputs = self.feed_forward(weights, self.feed_forward_input(weights, hidden))
        return self.after_feed_forward(weights, hidden, outputs)


def rotation(rope: RopeConfig, head_dim: int, length: int) -> Tensor:
    """Cosines and sines of positions 0 .. length - 1, float32 [2, length, pairs]."""
    frequencies, factor = inverse_frequencies(rope, head_dim)
    angles = torch.from_numpy(np.arange(length, dtype=np.float32)[:, None] * frequencies)
    return torch.stack([angles.cos(), angles.sin()]) * factor


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Turn element i with element i + n / 2 of the first n, n being twice the pairs; the rest stays."""
    cosine, sine = rotation[:, : heads.shape[-2]]
    pairs = cosine.shape[-1]
    first, second, rest = heads[..., :pairs], heads[..., pairs : 2 * pairs], heads[..., 2 * pairs :]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine, rest], -1)
