"""Relation distillation: which positions are alike, as MiniLM transfers it (Wang et al. 2020 and 2021).

A relation is softmax(a_i . b_j / sqrt(d)) of two kinds of vectors of one block: `attention` of queries and
keys, `query`, `key` and `value` of one kind with itself. It is as wide as the sequence is long, whatever the
model's widths, and heads are regrouped: all heads' vectors, one beside the other, are cut into as many
relation heads in both models. A position relates to those that it sees: itself and those before it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from penjing.distill.losses import divergence
from penjing.errors import DataError, SpecError
from penjing.models.trainable import TrainableModel

Relation = Literal["attention", "query", "key", "value"]
Vectors = dict[str, Tensor]


def attention_vectors(model: TrainableModel, index: int, hidden: Tensor) -> Vectors:
    """`query`, `key` and `value` of block `index` whose input is `hidden`, as its attention meets them.

    float32 [sequences, length, heads x head_dim] each; keys and values that queries share are repeated.
    """
    block, weights = model.model.block(index), model.model.block_weights(index)
    inputs = block.attention_input(weights, hidden)
    num_heads, num_kv_heads = block.block.num_heads, block.block.num_kv_heads
    heads = {
        "query": block.heads(weights, "query", inputs, num_heads),
        "key": block.heads(weights, "key", inputs, num_kv_heads),
        "value": block.split(block.linear(weights, "value", inputs), num_kv_heads),
    }
    return {
        name: part.repeat_interleave(num_heads // part.shape[1], 1).transpose(1, 2).flatten(2)
        for name, part in heads.items()
    }


def relation_loss(
    student: Vectors,
    teacher: Vectors,
    relations: tuple[Relation, ...],
    num_heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over relations, relation heads and positions of KL(teacher's relation || student's), in nats.

    mask: bool [sequences, length]: positions that neither relate nor are related to where it is False.
    Raises SpecError where `num_heads` does not divide a width, DataError if no position counts.
    """
    if mask is not None and not mask.any():
        raise DataError("no positions count: the mask is false everywhere")
    losses = []
    for relation in relations:
        goal = log_relation(teacher, relation, num_heads, mask)
        of_position = divergence(goal, log_relation(student, relation, num_heads, mask))
        counted = of_position.mean(1)
        losses.append((counted if mask is None else counted[mask]).mean())
    return torch.stack(losses).mean()


def log_relation(vectors: Vectors, relation: Relation, num_heads: int, mask: Tensor | None) -> Tensor:
    """The logarithm of a relation: float32 [sequences, num_heads, length, length], -inf where not seen."""
    if relation == "attention":
        left, right = vectors["query"], vectors["key"]
    else:
        left = right = vectors[relation]
    if mask is not None:  # what does not count may be NaN, and 0 x NaN is NaN
        left, right = (side.masked_fill(~mask[..., None], 0.0) for side in (left, right))
    left, right = regrouped(left, num_heads), regrouped(right, num_heads)
    length = left.shape[2]
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    if mask is not None:  # a position sees itself at least: softmax of nothing is NaN
        seen = seen & (mask[:, None, None, :] | torch.eye(length, dtype=torch.bool))
    scores = left @ right.transpose(-1, -2) / left.shape[-1] ** 0.5
    return functional.log_softmax(scores.masked_fill(~seen, -torch.inf), -1)


def regrouped(vectors: Tensor, num_heads: int) -> Tensor:
    """[sequences, length, width] to [sequences, num_heads, length, width / num_heads]."""
    if vectors.shape[-1] % num_heads:
        raise SpecError(f"{num_heads} relation heads do not divide {vectors.shape[-1]} elements evenly")
    return vectors.view(*vectors.shape[:2], num_heads, -1).transpose(1, 2)
