"""Seedling's Llama, written for fast training on CPU cores with bf16 dot products.

Parameter names and meaning are those of `transformers.LlamaForCausalLM`, so the state dict is the
checkpoint. What differs is the arithmetic: weights are kept in fp32 and used in bf16 with a bf16 residual
stream; query, key and value (and gate and up) are one matrix product; attention is batched matrix products
over causal chunks, because torch's fused CPU attention takes three times as long at head size 32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN, BLOCKS, HEADS, KV_HEADS, HEAD_SIZE, FEED_FORWARD = 256, 6, 8, 4, 32, 768
VOCABULARY, ROPE_THETA, EPSILON = 2048, 10000.0, 1e-5
QUERY_CHUNK = 128
compute_dtype = torch.bfloat16


def linear(x: Tensor, *layers: nn.Linear) -> Tensor:
    """One product with the stacked weights of several layers."""
    weights = [layer.weight.to(x.dtype) for layer in layers]
    return functional.linear(x, weights[0] if len(weights) == 1 else torch.cat(weights))


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
        return (wide * scale * self.weight).to(x.dtype)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD_SIZE, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_SIZE, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_SIZE, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_SIZE, HIDDEN, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = (
            linear(x, self.q_proj, self.k_proj, self.v_proj)
            .view(batch, length, -1, HEAD_SIZE)
            .transpose(1, 2)
        )
        query, key, value = heads.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        mixed = causal_attention(query, key, value)
        return linear(mixed.transpose(1, 2).reshape(batch, length, HEADS * HEAD_SIZE), self.o_proj)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding with the halves convention: [batch, heads, length, HEAD_SIZE]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(x.dtype)


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[batch, heads, length, HEAD_SIZE] to the same shape; a chunk of queries meets only the keys it may
    see.
    """
    batch, _, length, _ = query.shape
    group = HEADS // KV_HEADS
    query = query.reshape(batch * KV_HEADS, group, length, HEAD_SIZE)
    key, value = key.reshape(-1, length, HEAD_SIZE), value.reshape(-1, length, HEAD_SIZE)
    outputs = []
    for start in range(0, length, QUERY_CHUNK):
        end = min(start + QUERY_CHUNK, length)
        rows = query[:, :, start:end].reshape(batch * KV_HEADS, -1, HEAD_SIZE)
        scores = torch.bmm(rows, key[:, :end].transpose(1, 2)).view(-1, group, end - start, end)
        future = torch.arange(end)[None, :] > torch.arange(start, end)[:, None]
        scores = (scores.float() * HEAD_SIZE**-0.5).masked_fill(future, float("-inf"))
        weights = torch.softmax(scores, dim=-1).to(value.dtype).view(batch * KV_HEADS, -1, end)
        outputs.append(torch.bmm(weights, value[:, :end]).view(-1, group, end - start, HEAD_SIZE))
    return torch.cat(outputs, dim=2).view(batch, HEADS, length, HEAD_SIZE)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, FEED_FORWARD, bias=False)
        self.up_proj = nn.Linear(HIDDEN, FEED_FORWARD, bias=False)
        self.down_proj = nn.Linear(FEED_FORWARD, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = linear(x, self.gate_proj, self.up_proj).chunk(2, dim=-1)
        return linear(functional.silu(gate) * up, self.down_proj)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()
        self.mlp = FeedForward()
        self.input_layernorm = RMSNorm()
        self.post_attention_layernorm = RMSNorm()

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cosine, sine)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = RMSNorm()


class Seedling(nn.Module):
    """The model as its own objective: a block of tokens [batch, length + 1] to its mean next-token loss in
    nats.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.model = Decoder()
        frequency = ROPE_THETA ** (-torch.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
        angle = torch.arange(length)[:, None] * frequency
        self.register_buffer("cosine", angle.cos(), persistent=False)
        self.register_buffer("sine", angle.sin(), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-in initialization; what writes to the residual stream starts at zero, so each block starts as
        identity.
        """
        nn.init.normal_(self.model.embed_tokens.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif name.endswith("_proj.weight"):
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 * 0.7)

    def forward(self, tokens: Tensor) -> Tensor:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        x = self.model.embed_tokens(inputs).to(compute_dtype)
        for block in self.model.layers:
            x = block(x, self.cosine, self.sine)
        head = self.model.embed_tokens.weight.to(compute_dtype)
        logits = functional.linear(self.model.norm(x), head).float()
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
